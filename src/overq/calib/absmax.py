"""Max calibration: nothing seen is ever clipped by one digit."""

from __future__ import annotations

from overq.calib.observed import Observed
from overq.calib.step import step_for
from overq.spec import Format


def absmax(observed: Observed, fmt: Format) -> float:
    """The step with which one digit reaches the extremes seen."""
    return step_for(min(observed.low, 0.0), max(observed.high, 0.0), fmt)
