"""What all calibration methods share: turning a clip point into a step, and the one coarse-to-fine search."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from overq.calib.observed import Observed
from overq.spec import Format

NOTHING_SEEN = 1.0  # the step of a tensor that was always zero: any positive step is exact


def step_for(low: float, high: float, fmt: Format) -> float:
    """The step with which one digit just reaches both ends of [low, high]; `NOTHING_SEEN` where both are 0."""
    step = high / fmt.digit_max
    if fmt.digit_min:
        step = max(step, low / fmt.digit_min)
    return rounded(step) if step > 0 else NOTHING_SEEN


def rounded(step: float) -> float:
    """The nearest float32, so that a step survives every file and every device unchanged; never below its normal range."""
    return max(float(np.float32(step)), 2.0**-100)


def coarse_to_fine(
    error: Callable[[float], float], steps: Iterable[float], rounds: Iterable[Iterable[float]], held: Callable[[float], float] = float
) -> float:
    """The step of least error: of `steps`, then, round by round, of the best one's multiples. Of equals, the smallest.

    held: the step that stands for the one asked for, as `rounded`
    """
    seen: dict[float, float] = {}

    def best_of(steps: Iterable[float]) -> float:
        for step in map(held, steps):
            if step not in seen:
                seen[step] = error(step)
        return min(seen, key=lambda step: (seen[step], step))

    best = best_of(steps)
    for multiples in rounds:
        best = best_of(best * multiple for multiple in multiples)
    return best


def search(error: Callable[[float], float], observed: Observed, fmt: Format, points: int = 24, rounds: int = 3) -> float:
    """The step with the least error, between 1/256 and 1.2 of the step that clips nothing.

    Coarse to fine: `points` steps in geometric progression over the whole range, then `rounds` times 8 more around the
    best. The error of a step is not convex, but smooth at the scale of the first grid.
    """
    full = step_for(observed.low, observed.high, fmt)
    if observed.largest == 0:
        return full
    steps = np.geomspace(full / 256, full * 1.2, points)
    ratio, multiples = steps[1] / steps[0], []
    for _ in range(rounds):
        multiples.append(np.geomspace(1 / ratio, ratio, 10)[1:-1])
        ratio = ratio ** (2 / 9)
    return coarse_to_fine(error, steps, multiples, rounded)
