"""MSE calibration of plain quantization: the best clip point when nothing is overwritten."""

from __future__ import annotations

import numpy as np

from overq.calib.observed import Observed
from overq.calib.step import search
from overq.spec import Format


def mse(observed: Observed, fmt: Format) -> float:
    """The step that minimizes the mean squared error of plain `fmt.bits`-bit quantization of the histogram."""
    used = np.flatnonzero(observed.histogram)
    centers, weight = observed.centers[used], observed.histogram[used]

    def error(step: float) -> float:
        levels = np.clip(np.floor(centers / step + 0.5), fmt.digit_min, fmt.digit_max)
        return float(weight @ (centers - levels * step) ** 2)

    return search(error, observed, fmt)
