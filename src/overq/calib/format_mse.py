"""Format-aware MSE: the best step for the values that the format really spells.

With overwrite an outlier next to a zero is not clipped, so a smaller step pays. Whether there is a zero depends on the
neighbours; therefore the real kernel runs on sampled channel vectors instead of a formula on a histogram.
"""

from __future__ import annotations

import numpy as np

from overq import kernels
from overq.calib.observed import Observed
from overq.calib.step import search
from overq.spec import Format


def format_mse(observed: Observed, fmt: Format) -> float:
    """The step that minimizes the mean squared error of `fmt`'s decoded values on the sampled channel vectors."""
    sample = np.ascontiguousarray(observed.sample)
    scale = np.float32(observed.largest or 1.0)
    overwrite = kernels.get("auto", fmt).overwrite

    def error(step: float) -> float:
        difference = overwrite(sample, step, fmt)
        difference -= sample
        difference /= scale  # in units of the largest value, so that no square overflows
        return float(np.square(difference, out=difference).sum())

    return search(error, observed, fmt)
