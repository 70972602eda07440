"""ACIQ: the clip point in closed form, for values drawn from a Gauss or a Laplace density of mean zero.

Banner et al., "Post training 4-bit quantization of convolutional networks for rapid-deployment" (NeurIPS 2019).
Convention of the constants: clip point = constant · scale, with scale the standard deviation (Gauss) or the mean magnitude
(Laplace), and the error modelled as

    D(α) = 2 ∫_α^∞ (x - α)² f(x) dx + Δ²/12     with Δ = 2α / 2^b       (values in [-α, α], 2^b levels)

Rectified input has f's right half only: zeros are exact, Δ = α / 2^b, and D is half of the above with b + 1 in place of b.
So the rectified constant for b bits is the two-sided one for b + 1 bits, and the scale is measured on positive values alone.
Nothing is tabulated: dD/dα = 0 is solved here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from overq.calib.absmax import absmax
from overq.calib.observed import BINS, Observed
from overq.calib.step import step_for
from overq.spec import Format


def gauss_constant(bits: int) -> float:
    """α / σ that solves α/(3·4^b) = 2 [φ(α) - α Q(α)], for two-sided values in 2^bits levels."""
    return _root(lambda a: a / (3 * 4.0**bits) - 2 * (math.exp(-a * a / 2) / math.sqrt(2 * math.pi) - a * math.erfc(a / math.sqrt(2)) / 2))


def laplace_constant(bits: int) -> float:
    """α / b that solves (α/b) e^(α/b) = 3·4^bits, for two-sided values in 2^bits levels."""
    return _root(lambda a: a + math.log(a) - math.log(3 * 4.0**bits))


def aciq_gauss(observed: Observed, fmt: Format) -> float:
    """The step with which one digit reaches the best clip point of a (rectified) Gaussian."""
    return _step(observed, fmt, gauss_constant, 2)


def aciq_laplace(observed: Observed, fmt: Format) -> float:
    """The step with which one digit reaches the best clip point of a (rectified) Laplacian."""
    return _step(observed, fmt, laplace_constant, 1)


def _step(observed: Observed, fmt: Format, constant: Callable[[int], float], power: int) -> float:
    counts = observed.histogram if fmt.signed else np.where(np.arange(-BINS, BINS) > 0, observed.histogram, 0)
    if not counts.any():
        return absmax(observed, fmt)
    scale = float(counts @ np.abs(observed.centers) ** power / counts.sum()) ** (1 / power)
    clip = min(constant(fmt.bits if fmt.signed else fmt.bits + 1) * scale, observed.largest)
    return step_for(-clip if fmt.signed else 0.0, clip, fmt)


def _root(rising: Callable[[float], float]) -> float:
    """The zero of a rising function between 1e-6 and 60, by bisection."""
    low, high = 1e-6, 60.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2
