"""What is on the lanes: counted where they are there, else from rows drawn at given rates and encoded by the definition."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from overq.errors import InputError
from overq.spec import Format, State, encode

ROWS, LANES, SEED = 48, 256, 1
RUN = 15  # zeros that a run length of 4 bits counts


@dataclass(frozen=True)
class Shares:
    """Of all lanes: `nonzero` digits; `second` digits; `kept`: all but zeros that no value uses; `entries` of a run-length code (a value
    with the zeros before it, or 15 zeros and one); of all outliers: `served`."""

    nonzero: float
    second: float
    kept: float
    entries: float
    served: float


def shares(fmt: Format, zeros: float, outliers: float, channels: int) -> Shares:
    """Independent lanes: zero with probability `zeros`, an outlier with `outliers` (up to twice what a digit holds), else any level.

    channels   of one vector; vectors are cut at the format's `lanes`
    """
    _check(zeros, outliers)
    return _counted(fmt, zeros, outliers, min(channels, LANES))


def _check(zeros: float, outliers: float) -> None:
    if zeros < 0 or outliers < 0 or zeros + outliers > 1:
        raise InputError(f"rates of zeros and outliers are 0 to 1, together too, not {zeros} and {outliers}")


@lru_cache(maxsize=256)
def _counted(fmt: Format, zeros: float, outliers: float, length: int) -> Shares:
    rng = random.Random(SEED)
    counts = dict.fromkeys(("nonzero", "second", "kept", "entries", "served", "outliers", "lanes"), 0)
    for _ in range(max(ROWS, ROWS * 16 // length)):
        levels = [_level(fmt, rng, zeros, outliers) for _ in range(length)]
        lanes = encode([level * fmt.unit for level in levels], fmt)
        run = 0
        for digit, state in lanes:
            used = digit != 0 or state != State.OWN
            counts["nonzero"] += digit != 0
            counts["second"] += state in (State.RANGE, State.PRECISION)
            counts["served"] += state == State.RANGE
            counts["kept"] += used
            counts["entries"] += used or run == RUN
            run = 0 if used or run == RUN else run + 1
        counts["outliers"] += sum(not fmt.digit_min <= level <= fmt.digit_max for level in levels)
        counts["lanes"] += length
    lanes_all = counts["lanes"]
    served = counts["served"] / counts["outliers"] if counts["outliers"] else 0.0
    nonzero, second, kept, entries = (counts[name] / lanes_all for name in ("nonzero", "second", "kept", "entries"))
    return Shares(nonzero, second, kept, entries, served)


def counted(digits: np.ndarray, states: np.ndarray, outliers: int = 0) -> Shares:
    """Of lanes that are there, [..., lanes of a vector]; outliers: how many of the values are some."""
    length = digits.shape[-1]
    used = ((digits != 0) | (states != State.OWN)).reshape(-1, length)
    edge = np.ones((len(used), 1), bool)
    stops = np.flatnonzero(np.concatenate([edge, used], axis=1))  # a zero's run ends before a used lane or the vector's start
    gaps = np.diff(np.append(stops, len(used) * (length + 1))) - 1
    entries = np.count_nonzero(used) + int((gaps // (RUN + 1)).sum())
    second = np.count_nonzero((states == State.RANGE) | (states == State.PRECISION))
    served = np.count_nonzero(states == State.RANGE) / outliers if outliers else 0.0
    lanes = digits.size
    return Shares(np.count_nonzero(digits) / lanes, second / lanes, np.count_nonzero(used) / lanes, entries / lanes, served)


def _level(fmt: Format, rng: random.Random, zeros: float, outliers: float) -> int:
    drawn, sign = rng.random(), -1 if fmt.signed and rng.random() < 0.5 else 1
    most = fmt.digit_max
    if drawn < zeros:
        return 0
    if drawn < zeros + outliers:
        return sign * rng.randint(most + 2, 2 * most + 2)
    return sign * rng.randint(1, most)


def drawn(zeros: float, outliers: float, bits: int, signed: bool, vectors: int, lanes: int) -> np.ndarray:
    """Values [vectors, lanes] in steps of a digit of `bits`: zero with probability `zeros`, else half a step and more, exponentially
    distributed, so that the share `outliers` of all is above what the digit holds. The same values for every format that meets them."""
    _check(zeros, outliers)
    rng = np.random.default_rng(SEED)
    most = 2 ** (bits - signed) - 0.5
    tail = max(outliers, 1e-6) / max(1 - zeros, 1e-6)
    size = 0.5 + rng.exponential((most - 0.5) / -np.log(min(tail, 0.999)), (vectors, lanes))
    sign = rng.choice([-1.0, 1.0], size.shape) if signed else 1.0
    return np.where(rng.random(size.shape) < zeros, 0.0, sign * size)


def fixed(values: np.ndarray, bits: int, fmt: Format) -> np.ndarray:
    """t of values in steps of a digit of `bits`; a format with more bits has the finer step that covers the same range."""
    finer = 2.0 ** (fmt.bits - bits)
    return np.clip(np.floor(values * (finer * fmt.unit)), fmt.t_min, fmt.t_max).astype(np.int64)
