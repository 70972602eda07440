"""The same numbers as `stepped` without the clock: one matrix product a fold."""

from __future__ import annotations

import numpy as np

from overq.errors import FormatError
from overq.sim.layer import ArrayLayer
from overq.sim.result import Result
from overq.sim.timetable import total_cycles
from overq.spec import ArrayConfig, State, shift

EXACT_BITS = 53  # integers that float64 holds exactly


def run(layer: ArrayLayer, machine: ArrayConfig) -> Result:
    """Sums, cycles and counts of `stepped.run`.

    The products run in float64 (BLAS): every partial sum, in any order, stays below 2^53, so each is an exact integer; a machine whose
    sums could be wider is refused (FormatError).
    """
    bits = machine.depth_bits(layer.depth)
    if bits > EXACT_BITS:
        raise FormatError(f"sums of {layer.depth} lanes need {bits} bits; the fast model is exact up to {EXACT_BITS}")
    sums = np.zeros((layer.vectors, layer.weights.shape[3]), np.float64)
    folds = busy = multiplied = 0
    for fold in layer.folds(machine):
        sums[:, fold.outputs] += _spelled(fold.digits, fold.states, machine) @ fold.weights.astype(np.float64)
        folds += 1
        busy += layer.vectors * int(np.count_nonzero(fold.held))
        multiplied += int(np.count_nonzero(fold.digits, axis=0) @ np.count_nonzero(fold.held, axis=1))
    return Result(sums.astype(np.int64), total_cycles(machine, layer.vectors, folds), folds, busy, multiplied)


def _spelled(digits: np.ndarray, states: np.ndarray, machine: ArrayConfig) -> np.ndarray:
    """float64 [vectors, lanes]: what multiplies each lane's own weight, second digits moved to the lane whose weight they use."""
    fmt = machine.format
    scale = np.array([2.0 ** shift(state, fmt) for state in State])
    value = digits * scale[states]
    own = states == State.OWN
    total = np.where(own, value, 0.0)
    total[:, :-1] += np.where(own, 0.0, value)[:, 1:]
    return total
