"""The array cycle by cycle: what every register holds after every clock. For small cases; `fast` has the same numbers for large ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from overq.sim.element import product
from overq.sim.layer import ArrayLayer, Fold
from overq.sim.result import Result
from overq.sim.timetable import FoldTime, timetable
from overq.spec import ArrayConfig, State


class Snapshot(NamedTuple):
    """Every register after the clock that ends `cycle`; arrays [rows, columns]. `shadow` is the second weight register."""

    cycle: int
    weights: np.ndarray
    shadow: np.ndarray
    digits: np.ndarray
    states: np.ndarray
    sums: np.ndarray

    def __str__(self) -> str:
        """One line a row; an element shows its weight, the digit and state that just passed, and its partial sum."""
        names = {State.OWN: " ", State.RANGE: "R", State.MOVED: "M", State.PRECISION: "P"}
        lines = [f"after cycle {self.cycle}: weight × digit, state, sum"]
        for row in zip(self.weights, self.digits, self.states, self.sums, strict=True):
            lines.append("  ".join(f"{w:4d} ×{d:4d}{names[State(s)]}{p:8d}" for w, d, s, p in zip(*row, strict=True)))
        return "\n".join(lines)


def run(layer: ArrayLayer, machine: ArrayConfig, watch: Callable[[Snapshot], None] | None = None) -> Result:
    """Clock the array until the last sum has left it. `watch` gets a snapshot after every clock."""
    folds = [_filled(fold, machine) for fold in layer.folds(machine)]
    times = list(timetable(machine, [layer.vectors] * len(folds)))
    grid = _Grid(machine, layer.vectors, folds, times)
    sums = np.zeros((layer.vectors, layer.weights.shape[3]), np.int64)
    cycle = left = 0
    while left < len(folds) * layer.vectors * machine.columns:
        left += grid.clock(cycle)
        if watch is not None:
            watch(Snapshot(cycle, *(a.copy() for a in (grid.weights, grid.shadow, grid.digits, grid.states, grid.sums))))
        cycle += 1
    for fold, done in zip(folds, grid.finished, strict=True):
        sums[:, fold.outputs] = done[:, : fold.outputs.stop - fold.outputs.start]  # a later tile holds the earlier ones' sums
    return Result(sums, cycle, len(folds), grid.busy, grid.multiplied)


def _filled(fold: Fold, machine: ArrayConfig) -> Fold:
    """The fold with zeros in the rows and columns that it does not use."""
    lanes, outputs = fold.weights.shape
    below, right = machine.rows - lanes, machine.columns - outputs
    digits, states = (np.pad(values.astype(np.int64), ((0, 0), (0, below))) for values in (fold.digits, fold.states))
    weights, held = (np.pad(values, ((0, below), (0, right))) for values in (fold.weights, fold.held))
    return Fold(weights, digits, states, fold.outputs, fold.first, held)


class _Grid:
    """All registers; `clock` computes what stands before them in one cycle and then updates them together."""

    def __init__(self, machine: ArrayConfig, vectors: int, folds: list[Fold], times: list[FoldTime]) -> None:
        self.machine, self.vectors, self.folds, self.times = machine, vectors, folds, times
        shape = machine.rows, machine.columns
        self.weights, self.shadow, self.digits, self.states, self.sums = (np.zeros(shape, np.int64) for _ in range(5))
        self.row, self.column = np.indices(shape)
        self.finished = [np.zeros((vectors, machine.columns), np.int64) for _ in folds]
        self.busy = self.multiplied = 0
        self.products = [np.zeros(shape, np.int64) for _ in range(machine.pipeline)]  # on their way to the sums, the latest last

    def clock(self, cycle: int) -> int:
        """One cycle; returns how many finished sums left the last row."""
        above = np.vstack([np.zeros_like(self.weights[:1]), self.weights[:-1]])
        digits = np.hstack([np.zeros_like(self.digits[:, :1]), self.digits[:, :-1]])
        states = np.hstack([np.zeros_like(self.states[:, :1]), self.states[:, :-1]])
        sums = np.vstack([np.zeros_like(self.sums[:1]), self.sums[:-1]])
        rows, columns = np.arange(self.machine.rows), np.arange(self.machine.columns)
        for index, (fold, time) in enumerate(zip(self.folds, self.times, strict=True)):
            vector = cycle - time.start - rows  # row k gets its lane k cycles late
            live = (vector >= 0) & (vector < self.vectors)
            digits[live, 0], states[live, 0] = fold.digits[vector[live], rows[live]], fold.states[vector[live], rows[live]]
            vector = cycle - time.start - columns - self.machine.pipeline  # column j starts its sum j cycles late
            live = (vector >= 0) & (vector < self.vectors)
            sums[0, live] = 0 if fold.first else self.finished[index - 1][vector[live], columns[live]]
        self._count(cycle, digits)
        self.products.append(product(digits, states, self.weights, above, self.machine.format))
        self.sums = sums + self.products.pop(0)
        self.digits, self.states = digits, states
        self._move_weights(cycle)
        return self._collect(cycle)

    def _move_weights(self, cycle: int) -> None:
        """The load chain, and with double buffering the wave that makes the loaded weights the active ones."""
        weights, shadow = self.weights.copy(), self.shadow.copy()
        chain = self.shadow if self.machine.double_buffered else self.weights
        target = shadow if self.machine.double_buffered else weights
        above = np.vstack([np.zeros_like(chain[:1]), chain[:-1]])
        for fold, time in zip(self.folds, self.times, strict=True):
            late = self.column if self.machine.double_buffered else np.zeros_like(self.column)
            step = cycle - time.load - late
            # Double buffered, row k joins k cycles late, when the first weight arrives: until then it holds the fold before.
            joined = self.row if self.machine.double_buffered else 0
            loading = (step >= joined) & (step < self.machine.rows)
            top = fold.weights[np.clip(self.machine.rows - 1 - step[0], 0, self.machine.rows - 1), np.arange(self.machine.columns)]
            source = np.vstack([top[None], above[1:]])
            target[loading] = source[loading]
            if self.machine.double_buffered:
                swap = cycle == time.start - 1 + self.row + self.column
                weights[swap] = self.shadow[swap]
        self.weights, self.shadow = weights, shadow

    def _count(self, cycle: int, digits: np.ndarray) -> None:
        for fold, time in zip(self.folds, self.times, strict=True):
            vector = cycle - time.start - self.row - self.column
            used = (vector >= 0) & (vector < self.vectors) & fold.held
            self.busy += int(used.sum())
            self.multiplied += int((used & (digits != 0)).sum())

    def _collect(self, cycle: int) -> int:
        left = 0
        columns = np.arange(self.machine.columns)
        for done, time in zip(self.finished, self.times, strict=True):
            vector = cycle - time.start - (self.machine.rows - 1) - columns - self.machine.pipeline
            live = (vector >= 0) & (vector < self.vectors)
            done[vector[live], columns[live]] = self.sums[-1, live]
            left += int(live.sum())
        return left
