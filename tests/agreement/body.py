"""The one body that every implementation goes through: compare with the definition, bit for bit.

An implementation is anything with the functions of a kernel backend (`overq.kernels`).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from overq.kernels.scale import factors
from overq.spec import Counts, Format, State, count, dot, effective, encode

STEP = 0.1
Rows = tuple[tuple[int, ...], ...]


class Answer(NamedTuple):
    """What the definition says about some rows of one length."""

    digits: np.ndarray
    states: np.ndarray
    E: np.ndarray
    counts: Counts


@lru_cache(maxsize=4096)
def definition(rows: Rows, fmt: Format) -> Answer:
    lanes = [encode(row, fmt) for row in rows]
    return Answer(
        np.array([[lane.digit for lane in row] for row in lanes]),
        np.array([[int(lane.state) for lane in row] for row in lanes]),
        np.array([effective(row, fmt) for row in lanes]),
        sum((count(row, fmt) for row in rows), Counts()),
    )


def agree(backend: Any, rows: Sequence[Sequence[int]], fmt: Format) -> None:
    """Digits, states, E, counts and real values of `rows` (one length), along each axis; and the law of section 1.3."""
    answer = definition(tuple(tuple(row) for row in rows), fmt)
    t = np.array(rows, dtype=np.int32)
    for axis, arrange in ((-1, np.asarray), (0, np.transpose), (1, _with_positions_inside)):
        digits, states = (_numpy(a) for a in backend.encode(np.ascontiguousarray(arrange(t)), fmt, axis))
        np.testing.assert_array_equal(digits, arrange(answer.digits), f"digits, axis {axis}, {fmt}")
        np.testing.assert_array_equal(states, arrange(answer.states), f"states, axis {axis}, {fmt}")
        assert backend.counts(np.ascontiguousarray(arrange(t)), fmt, axis) == _times(answer.counts, arrange(t).size // t.size), fmt
        x, E = real_rows(t, answer.E, fmt)
        y = _numpy(backend.overwrite(np.ascontiguousarray(arrange(x)), STEP, fmt, axis))
        np.testing.assert_array_equal(y, arrange(E).astype(np.float32) * factors(STEP, fmt)[1], f"values, axis {axis}, {fmt}")
    digits, states = backend.encode(t, fmt)
    np.testing.assert_array_equal(_numpy(backend.effective(digits, states, fmt)), answer.E, f"effective, {fmt}")
    keep_the_law(_numpy(digits), _numpy(states), answer.E, fmt)


def real_rows(t: np.ndarray, E: np.ndarray, fmt: Format) -> tuple[np.ndarray, np.ndarray]:
    """float32 x in the middle of t's intervals, and the definition's E of floor(x · r): at b = 8 float32 does not reach every t."""
    r = factors(STEP, fmt)[0]
    x = ((np.clip(t, fmt.t_min, fmt.t_max) + 0.5) / float(r)).astype(np.float32)
    seen = np.floor(x * r).astype(np.int64)
    same = np.array_equal(seen, np.clip(t, fmt.t_min, fmt.t_max))
    return x, E if same else definition(tuple(map(tuple, seen.tolist())), fmt).E


def keep_the_law(digits: np.ndarray, states: np.ndarray, E: np.ndarray, fmt: Format) -> None:
    """The array's sum over lanes equals the ordinary sum over E, for random integer weights."""
    weights = np.random.default_rng(len(E)).integers(-128, 128, E.shape[-1]).tolist()
    for some_digits, some_states, some_E in zip(digits[:50].tolist(), states[:50].tolist(), E[:50].tolist(), strict=True):
        lanes = [(digit, State(state)) for digit, state in zip(some_digits, some_states, strict=True)]
        assert dot(lanes, weights, fmt) == sum(e * w for e, w in zip(some_E, weights, strict=True)), fmt


def _with_positions_inside(a: np.ndarray) -> np.ndarray:
    """[rows, lanes] -> [2, lanes, rows]."""
    return np.stack([a.T, a.T])


def _times(counts: Counts, n: int) -> Counts:
    return sum((counts for _ in range(n)), Counts())


def _numpy(a: Any) -> np.ndarray:
    return np.asarray(a)


# What is tried exhaustively --------------------------------------------------------------------------


def classes(fmt: Format) -> list[int]:
    """One t of each kind: zero (and its edge), small, large, outlier, two that saturate; both signs in the signed format."""
    half, unit = fmt.unit // 2, fmt.unit
    top, bottom = fmt.digit_max * unit, fmt.digit_min * unit
    kinds = [half - 1, half, top + half - 1, top + half, fmt.t_max + 9, fmt.t_max + 90]
    return [*kinds[1:], 0, -half - 1, bottom - half - 1] if fmt.signed else [0, *kinds]


def formats_to_exhaust() -> list[Format]:
    """All policies, r, f, signs and cascades, with and without tile edges, at b = 2; fewer at b = 3, and of those that let values give
    way."""
    found = [Format.plain(2), Format.plain(2, signed=True)]
    for (bits, evict, signed), cascade, lanes in itertools.product(((2, 1, True), (2, 3, False), (3, 2, True)), (1, 3), (None, 3)):
        found += [Format(bits, cascade, 2, f, policy, signed, lanes, evict) for f, policy in ((0, "first"), (1, "largest"))]
    every = [(r, f) for r in range(3) for f in range(3) if r or f]
    some = [(3, 3), (3, 0), (0, 3), (2, 2), (1, 3), (2, 0), (0, 1)]
    for bits, cascades, tiles, seconds in ((2, (1, 2, 3), (None, 2, 3), every), (3, (2,), (None, 3), some)):
        for cascade, lanes, (r, f), policy, signed in itertools.product(cascades, tiles, seconds, ("first", "largest"), (False, True)):
            if not (signed and r == 1):
                found.append(Format(bits, cascade, r, f, policy, signed, lanes))
    return found


def exhaustive_rows(fmt: Format, lanes: int = 4) -> Rows:
    return tuple(itertools.product(classes(fmt), repeat=lanes))


def long_rows(fmt: Format, lanes: int, count: int, seed: int = 0) -> Rows:
    """Random rows of the same classes, long enough to cross words, blocks and threads of a fast kernel."""
    rng = random.Random(seed)
    kinds = classes(fmt)
    return tuple(tuple(rng.choice(kinds) if rng.random() < 0.6 else rng.randint(-1, fmt.t_max) for _ in range(lanes)) for _ in range(count))
