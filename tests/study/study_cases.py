"""Small studies with made-up results: a store as `overq study run` leaves it, without running anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from overq.cli import main
from overq.methods import Cost
from overq.study.cell import Cell, cells_of
from overq.study.evaluate import FLOAT_COST, evaluate
from overq.study.measure import Measured
from overq.study.plan import Network, Setting, Study, expand
from overq.study.store import Store
from overq.study.workers import outcome_of

DIGITS = Network("digits", "overq.study.digits:network", "digits", "digits")
RIVALS = [{"method": "overq", "bits": [3, 4]}, {"method": "sparq", "bits": 4}]
STUDY = Study("s", (DIGITS,), expand(RIVALS, (8,)), shards=2)


class Inline:
    """Cells in this process, as a worker runs them: with one thread, on which a convolution's last bits depend."""

    slots = 1

    def submit(self, key: str, cell: Cell) -> None:
        self.cell = key, cell

    def results(self):
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield outcome_of(*self.cell, evaluate)
        finally:
            torch.set_num_threads(before)

    def close(self) -> None:
        pass


def cells(study: Study, **versions: str) -> list[Cell]:
    """The study's cells, as if this were other code."""
    return [replace(cell, versions=tuple((dict(cell.versions) | versions).items())) for cell in cells_of(study)[0]]


def fill(store: Store, wanted: list[Cell], right: Callable[[str, int], np.ndarray], cost: Callable[[Setting], Cost]) -> None:
    """Record a result for every cell: right(label, shard), cost(setting)."""
    store.add(wanted[0].study, wanted)
    by_key = {cell.key: cell for cell in wanted}
    for key in store.claim(set(by_key), len(by_key)):
        cell = by_key[key]
        columns = {"top1": right(cell.setting.label, cell.shard)[:, None].astype(float)}
        store.finish({key: (Measured(columns), cost(cell.setting), 0.5, dict(cell.versions) | {"commit": "abc"})})


def first(count: int) -> np.ndarray:
    """Of ten images the first `count` are right."""
    return np.arange(10) < count


def cost_of(setting: Setting) -> Cost:
    """OverQ stores two state bits more than its digits, SPARQ three and a half."""
    if setting.method == "float":
        return FLOAT_COST
    bits = dict(setting.parameters)["bits"]
    return Cost(bits, {"overq": 2.0, "sparq": 3.5}.get(setting.method, 0.0), bits, 8)


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `overq words…`, in this process."""
    monkeypatch.setattr("sys.argv", ["overq", *map(str, words)])
    try:
        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err
