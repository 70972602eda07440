"""Percentile calibration: a fixed share of the values is clipped."""

from __future__ import annotations

import numpy as np

from overq.calib.observed import BINS, Observed
from overq.calib.step import step_for
from overq.errors import FormatError
from overq.spec import Format

DEFAULT = 99.9


def percentile(observed: Observed, fmt: Format, percent: float = DEFAULT) -> float:
    """The step with which one digit reaches `percent` % of the values on each side of zero (all values, zeros included)."""
    if not 0 < percent <= 100:
        raise FormatError(f"percentile must be above 0 and at most 100, not {percent:g}")
    magnitudes = observed.histogram[BINS:], observed.histogram[:BINS][::-1]  # from zero outwards, each side
    high, low = (_reach(side, percent / 100 * observed.values, observed) for side in magnitudes)
    return step_for(-min(low, max(-observed.low, 0.0)), min(high, max(observed.high, 0.0)), fmt)


def _reach(side: np.ndarray, wanted: float, observed: Observed) -> float:
    """Upper edge of the bin within which, counted from the far end, only the share not wanted is left."""
    beyond = observed.values - wanted
    tail = np.cumsum(side[::-1])[::-1]  # values in this bin or farther out
    bins = int(np.count_nonzero(tail > beyond))
    return bins * observed.limit / BINS
