"""When each fold loads and runs, and how many cycles that takes.

A fold is one tile of weights (rows lanes × columns outputs) and all vectors that pass through it. Cycle numbers:

    one register a weight   load in cycles S … S+rows-1, the first vector's lane 0 in T = S + rows, the next fold when the last sum is out:
                            2·rows + columns + vectors - 2 cycles a fold
    double buffered         a second register a weight is filled while vectors stream: load from L, first vector in T >= L + rows + 1.
                            The new weights become active as a wave just ahead of the first vector (element (k, j) at the end of cycle
                            T-1+k+j), and the next load follows the wave (L = T - 1), so folds start max(vectors + gap, rows) cycles apart

`machine.pipeline` cycles more pass from a lane to its sum: once for each fold with one register a weight, once in all with two.

gap is 1 where a lane can use the previous row's weight: row k still needs it, for the old fold's last vector, in the very cycle in which
row k-1 would compute with the new one. The plain array needs no gap. Folds `rows` cycles apart are also the closest for which a
column's partial sum is back before the next tile of the same dot product needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from overq.spec import ArrayConfig


class FoldTime(NamedTuple):
    """load: the first cycle of loading; start: the cycle of the first vector's lane 0."""

    load: int
    start: int


def timetable(machine: ArrayConfig, vectors: Sequence[int]) -> Iterator[FoldTime]:
    """When each fold loads and starts, given its number of vectors."""
    rows = machine.rows
    if not machine.double_buffered:
        load = 0
        for count in vectors:
            yield FoldTime(load, load + rows)
            load += fold_cycles(machine, count)
        return
    start = rows + 1
    yield FoldTime(0, start)
    for before, _ in pairwise(vectors):
        load, start = start - 1, start + max(before + machine.gap, rows)
        yield FoldTime(load, start)


def fold_cycles(machine: ArrayConfig, vectors: int) -> int:
    """One fold on its own, one register a weight: from the first weight to the last sum."""
    return 2 * machine.rows + machine.columns + vectors - 2 + machine.pipeline


def total_cycles(machine: ArrayConfig, vectors: int, folds: int) -> int:
    """`folds` folds of `vectors` each, until the last sum has left."""
    if not machine.double_buffered:
        return folds * fold_cycles(machine, vectors)
    return 1 + fold_cycles(machine, vectors) + (folds - 1) * max(vectors + machine.gap, machine.rows)
