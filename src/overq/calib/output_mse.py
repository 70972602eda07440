"""Output MSE: the step that minimizes the error of the layer's output, its weights known.

With e the error of one channel vector and W the weights that touch it (all outputs, all kernel taps), the output's error is
the sum of |W e|² over positions, if errors of different positions are independent: overlaps of kernel taps are left out,
because the sample holds channel vectors of single positions.
"""

from __future__ import annotations

import numpy as np

from overq import kernels
from overq.calib.observed import Observed
from overq.calib.step import search
from overq.errors import FormatError
from overq.spec import Format


def output_mse(observed: Observed, fmt: Format, weight: np.ndarray | None = None) -> float:
    """The step with the least |W e|² over the sampled channel vectors.

    weight  float [R, K]: one row for each output channel and kernel tap, K = the sample's lanes
    """
    if weight is None:
        raise FormatError("calibration 'output-mse' needs the layer's weight; use it through overq.quantize")
    sample = np.ascontiguousarray(observed.sample)
    scale = np.float32(observed.largest or 1.0)
    overwrite = kernels.get("auto", fmt).overwrite
    root = _root(weight)

    def error(step: float) -> float:
        return float(np.square(((overwrite(sample, step, fmt) - sample) / scale) @ root).sum())

    return search(error, observed, fmt)


def _root(weight: np.ndarray) -> np.ndarray:
    """Float32 [K, K] with root · rootᵀ = Wᵀ W, so that the cost does not grow with outputs and taps."""
    gram = weight.astype(np.float64).T @ weight.astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    return (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)
