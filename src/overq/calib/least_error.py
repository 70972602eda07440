"""Least-error calibration: the step of least squared error of what is decoded, for anything that decodes.

The search is that of all calibrations (`step.coarse_to_fine`). `format_mse` begins with steps between 1/256 and 1.2 of the one that
clips nothing, on the whole sample, which suits a number format. Rival methods reach from a third of that range to 2^-14 of it, have
second parameters and cost more to decode: here the first steps lie wide and the sample is thinned for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from overq import kernels
from overq.calib.observed import Observed
from overq.calib.step import NOTHING_SEEN, coarse_to_fine
from overq.spec import Format

OCTAVES = 14  # steps from the greatest magnitude down to 2^-14 of it: 8-bit values with outliers of twice the bits fit in
PER_OCTAVE = 4
COARSE_VALUES = 2**15
FINE_VALUES = 2**18


@dataclass(frozen=True)
class _Decoder:
    """A number format with a step."""

    format: Format
    step: float

    def __call__(self, sample: np.ndarray) -> np.ndarray:
        return kernels.get("auto", self.format).overwrite(sample, self.step, self.format)


def least_error(observed: Observed, fmt: Format) -> float:
    """The step of least squared error on the sampled channel vectors."""
    if not observed.sample.any():
        return NOTHING_SEEN
    return best(np.ascontiguousarray(observed.sample), [lambda step: _Decoder(fmt, step)]).step


def best(sample: np.ndarray, candidates: Sequence[Callable[[float], Any]]) -> Any:
    """The fitted object of least squared error.

    sample: float32 [M, K], not all zero. candidates: functions step -> fitted, one per setting of a method's second parameter.
    All of them are tried on a geometric grid of steps over a part of the sample (errors have several minima where outliers get
    more range); the best few are compared on more of it, and the winner's step is refined to within 1 %.
    Rows are whole and evenly spaced, never random, so the result depends on the sample alone.
    """
    greatest = float(np.abs(sample).max())
    grid = [greatest * 2.0 ** (-k / PER_OCTAVE) for k in range(OCTAVES * PER_OCTAVE + 1)]
    few, many = thinned(sample, max(COARSE_VALUES // len(candidates), COARSE_VALUES // 4)), thinned(sample, FINE_VALUES)
    tried = [(squared_error(make(as_float32(step)), few), i, step) for i, make in enumerate(candidates) for step in grid]
    _, chosen, start = min((squared_error(candidates[i](as_float32(s)), many), i, s) for _, i, s in sorted(tried)[: 3 + len(candidates)])
    spacings = (1 / PER_OCTAVE / 3, 1 / PER_OCTAVE / 3 / 3, 1 / PER_OCTAVE / 3 / 3 / 3)
    rounds = [[2.0 ** (j * spacing) for j in (-2, -1, 1, 2)] for spacing in spacings]
    step = coarse_to_fine(lambda step: squared_error(candidates[chosen](as_float32(step)), many), [start], rounds)
    return candidates[chosen](as_float32(step))


def squared_error(fitted: Callable[[np.ndarray], np.ndarray], sample: np.ndarray) -> float:
    """Sum of squared differences, in float64."""
    difference = (fitted(sample) - sample).astype(np.float64)
    return float(np.square(difference, out=difference).sum())


def thinned(sample: np.ndarray, values: int) -> np.ndarray:
    """About `values` values of the sample as whole rows, evenly spaced; at least one row that is not all zero."""
    rows = max(1, values // sample.shape[1])
    if rows >= len(sample):
        return sample
    chosen = sample[np.linspace(0, len(sample) - 1, rows).astype(int)]
    return chosen if chosen.any() else sample[sample.any(axis=1)][:rows]


def as_float32(step: float) -> float:
    return float(np.float32(step))
