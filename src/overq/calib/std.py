"""Standard-deviation calibration: the clip point lies k standard deviations from the mean."""

from __future__ import annotations

import numpy as np

from overq.calib.observed import Observed
from overq.calib.step import step_for
from overq.errors import FormatError
from overq.spec import Format

DEFAULT = 4.0


def std(observed: Observed, fmt: Format, deviations: float = DEFAULT) -> float:
    """The step with which one digit reaches mean ± `deviations` · std of all values (zeros included), but no farther than the extremes."""
    if not (deviations > 0 and np.isfinite(deviations)):
        raise FormatError(f"standard deviations must be a positive number, not {deviations:g}")
    if not observed.values:
        return step_for(0.0, 0.0, fmt)
    mean = float(observed.histogram @ observed.centers) / observed.values
    variance = float(observed.histogram @ np.square(observed.centers - mean)) / observed.values
    reach = deviations * variance**0.5
    low, high = min(observed.low, 0.0), max(observed.high, 0.0)
    clipped_low, clipped_high = min(max(mean - reach, low), 0.0), max(min(mean + reach, high), 0.0)
    return step_for(clipped_low, clipped_high, fmt)
