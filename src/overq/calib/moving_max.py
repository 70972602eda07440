"""Moving-average max calibration: the extremes of a typical batch, so that one odd image does not set the step.

Exponential moving average of each batch's extremes (Jacob et al., CVPR 2018), corrected for its start at zero:
m_n = decay · m_(n-1) + (1 - decay) · max_n, divided by 1 - decay^n. `Observed` keeps it; see there for how two streams merge.
A batch is a chunk of `nn.samples`, at most 32 samples, whatever batches the samples came in.
"""

from __future__ import annotations

from overq.calib.observed import Observed
from overq.calib.step import step_for
from overq.spec import Format


def moving_max(observed: Observed, fmt: Format) -> float:
    """The step with which one digit reaches the moving average of the batches' extremes."""
    low, high = observed.moving_extremes
    return step_for(min(low, 0.0), max(high, 0.0), fmt)
