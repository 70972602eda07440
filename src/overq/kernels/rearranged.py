"""What second digits save when lanes are rearranged, on the CPU: for a search that tries many orders of the same channels.

A channel's values are staged once: which are zeros and outliers, how much each wants a second digit, what it would gain by one. An
arrangement is then a list of channels, and only the decision is made anew, by the function that decides everywhere
(`compiled.decide`): the error of `overwrite` is the error with one digit each less what is saved. That nothing gives way is taken for
granted: orders of a format with `evict` are sought as if it had none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from overq.kernels.bits import ones, sum_where
from overq.kernels.compiled import F32, U64, Rule, classify, compiled, decide, new_block, stage, value
from overq.kernels.numba_cpu import cpus, pool, rule_of
from overq.spec import Format

WIDTH = 8  # words of a lane that go together: the keys of a few dozen lanes fit the L2 cache


@dataclass(frozen=True)
class Channels:
    """K channels at M positions, padded with zeros to whole words."""

    rule: Rule
    positions: int  # M, without padding
    error: np.ndarray  # float64 [K]: squared error with one digit each, in squared steps, summed over the positions
    outliers: np.ndarray  # float64 [K]: share of the positions
    zeros: np.ndarray  # float64 [K]
    nonzero: np.ndarray  # uint64 [K, words]: a bit for each position
    outlier: np.ndarray  # uint64 [K, words]
    key: np.ndarray  # int32 [K, 64 · words]; for the policy "first", which needs none, [0, 64 · words]
    gain: np.ndarray  # float32 [K, 64 · words]: squared error with one digit less that with two


def staged(values: np.ndarray, step: float, fmt: Format) -> Channels:
    """Of float32 [K, M], M > 0."""
    rule, (count, positions) = rule_of(fmt, float(step)), values.shape
    words = -(-positions // 64)
    words += -words % min(words, WIDTH)
    bits, numbers = (count, words), (count, 64 * words)
    nonzero, outlier, gain = np.empty(bits, np.uint64), np.empty(bits, np.uint64), np.empty(numbers, np.float32)
    key, facts = np.empty(numbers if rule.largest else (0, 64 * words), np.int32), np.empty((3, count))
    _stage_channels(np.ascontiguousarray(values), np.float32(step), rule, nonzero, outlier, key, gain, facts)
    return Channels(rule, positions, facts[0], facts[1] / positions, 1 - facts[2] / positions, nonzero, outlier, key, gain)


def saved(channels: Channels, orders: np.ndarray, tile: int = 0) -> np.ndarray:
    """Squared error, in squared steps, that second digits save on each lane: float64 [N, L].

    orders  int64 [N, L]: arrangement n has channel orders[n, l] on lane l
    tile    lanes of a tile; 0: all L are one
    """
    out, threads = np.empty(orders.shape), cpus()
    parts = list(pairwise(len(orders) * i // threads for i in range(threads + 1)))
    memory = (channels.nonzero, channels.outlier, channels.key, channels.gain.reshape(-1))
    rule = channels.rule._replace(lanes=tile)
    for job in [pool(os.getpid(), threads).submit(_save, orders[a:b], *memory, rule, out[a:b]) for a, b in parts if a < b]:
        job.result()
    return out


@compiled
def _stage_channels(values, step, rule, nonzero, outlier, key, gain, facts):  # type: ignore[no-untyped-def]
    words = nonzero.shape[1]
    b = new_block(words, 0, 1)
    for row in range(values.shape[0]):
        x = values[row]
        stage(x, b.t, rule.r, rule)
        classify(b, 0, words, rule)
        nonzero[row], outlier[row] = b.nonzero, b.outlier
        if rule.largest:
            key[row] = b.key
        error = 0.0
        for k in range(x.size):
            one = (value(b.t[k], False, rule.q, rule) - x[k]) / step
            two = (value(b.t[k], True, rule.q, rule) - x[k]) / step
            error += one * one
            gain[row, k] = one * one - two * two
        gain[row, x.size :] = F32(0)
        facts[0, row], facts[1, row], facts[2, row] = error, _count(b.outlier), _count(b.nonzero)


@compiled
def _count(words):  # type: ignore[no-untyped-def]
    total = 0
    for word in words:
        total += ones(word)
    return total


@compiled
def _save(orders, nonzero, outlier, key, gain, rule, out):  # type: ignore[no-untyped-def]
    """As many words of every lane as go together make a block of `decide`; a lane's neighbour is `unit` values away."""
    (count, lanes), words = orders.shape, nonzero.shape[1]
    tile, width = rule.lanes if rule.lanes else lanes, min(words, WIDTH)
    unit, front = 64 * width, (rule.cascade + 1) * width + 2
    stop = front + lanes * width
    b = new_block(lanes * width, front, rule.cascade)
    for lane in range(lanes):
        b.open[front + lane * width : front + (lane + 1) * width] = ~U64(0) if lane % tile else U64(0)
    out[:] = 0.0
    for n in range(count):
        for word in range(0, words, width):
            for lane in range(lanes):
                row, here = orders[n, lane], front + lane * width
                b.nonzero[here : here + width] = nonzero[row, word : word + width]
                b.outlier[here : here + width] = outlier[row, word : word + width]
                if rule.largest:
                    b.key[64 * here : 64 * (here + width)] = key[row, 64 * word : 64 * (word + width)]
            decide(b, front, front, stop, unit, rule, False)
            for lane in range(lanes):
                here, at = front + lane * width, 64 * (orders[n, lane] * words + word)
                for k in range(width):
                    out[n, lane] += sum_where(b.served[here + k], gain, at + 64 * k)
