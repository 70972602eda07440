"""Head and workers with nothing between them but a folder: whoever dies, each cell is recorded once, with the local engine's result."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_cases import STUDY, Inline, command

from overq.errors import InputError
from overq.methods import Cost
from overq.spec import Counts
from overq.study import mailbox
from overq.study.cell import Cell, cells_of
from overq.study.evaluate import evaluate
from overq.study.mailbox import MailboxWorkers, work
from overq.study.measure import Measured
from overq.study.run import run
from overq.study.store import Store
from overq.study.workers import Outcome, outcome_of

FEW = replace(STUDY, settings=STUDY.settings[:3], limit=20, samples=8)


def value(cell: Cell) -> Any:
    """A made-up result that tells cells apart."""
    found = Measured({"top1": np.full((3, 1), cell.shard + 0.1)}, {cell.setting.label: (Counts(9, 4, 2, 1, 1), 4)})
    return found, Cost(4.0, 2.0, 4.0, 8), 0.5, {"code": "x"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mailbox, "LOOK", 0.01)
    monkeypatch.setattr(mailbox, "SIGN", 0.02)
    (tmp_path / "cells").mkdir()
    return tmp_path / "cells"


def stored(store: Store) -> dict[str, tuple[Any, ...]]:
    names = "state", "reason", "completions", "columns", "lanes", "cost"
    return {row["key"]: tuple(row[name] for name in names) for row in store.rows()}


def test_records_are_the_local_engines(folder: Path, tmp_path: Path) -> None:
    cells, stores = cells_of(FEW)[0], [Store(tmp_path / f"{name}.sqlite") for name in ("a", "b")]
    for store in stores:
        store.add("s", cells)
    run(stores[0], cells, Inline())
    worker = threading.Thread(target=work, args=(folder, lambda key, cell: outcome_of(key, cell, evaluate), 20), daemon=True)
    worker.start()
    assert run(stores[1], cells, MailboxWorkers(folder)).done == 6
    worker.join()
    assert stored(stores[0]) == stored(stores[1])
    assert not [p for p in folder.rglob("*") if p.is_file()], "nothing is left lying about"


def test_what_a_dead_worker_held_others_run_and_the_third_time_it_has_failed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "LEASE", 0.3)
    cells, store = cells_of(FEW)[0], Store(tmp_path / "s.sqlite")
    store.add("s", cells)
    poison, taken = cells[2].key, []

    class Death(BaseException):
        """As if the process were killed: nothing is cleaned up."""

    def once(key: str, cell: Cell) -> Outcome:
        taken.append(key)
        if key == poison:
            raise Death
        return Outcome(key, value(cell))

    def worker() -> None:
        while not done:
            try:
                work(folder, once, 0.2)
            except Death:
                continue

    done: list[int] = []
    thread = threading.Thread(target=worker, daemon=True)
    thread.start()
    tally = run(store, cells, MailboxWorkers(folder))
    done.append(1)
    thread.join()
    assert (tally.done, tally.failed) == (5, 1)
    rows = {row["key"]: row for row in store.rows()}
    assert rows.pop(poison)["reason"] == "the worker process died, 3 times"
    assert taken.count(poison) == 3
    assert {(row["state"], row["completions"]) for row in rows.values()} == {("done", 1)}


def test_a_head_that_starts_again_takes_what_its_workers_finished_meanwhile(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, store = cells_of(FEW)[0], Store(tmp_path / "s.sqlite")
    store.add("s", cells)
    monkeypatch.setattr(mailbox, "LEASE", 3.0)
    first, ran = MailboxWorkers(folder), []
    for cell in cells[:2]:
        first.submit(cell.key, cell)
    first._sign.end()  # and then it is killed

    def one(key: str, cell: Cell) -> Outcome:
        ran.append(key)
        return Outcome(key, value(cell))

    assert work(folder, one, 20) == 2
    worker = threading.Thread(target=work, args=(folder, one, 20), daemon=True)
    worker.start()
    assert run(store, cells, MailboxWorkers(folder)).done == 6
    worker.join()
    assert {row["completions"] for row in store.rows()} == {1}
    assert len(ran) <= 8


def test_a_damaged_result_or_cell_fails_that_cell_only(folder: Path) -> None:
    cells = cells_of(FEW)[0]
    head = MailboxWorkers(folder)
    head.submit(cells[0].key, cells[0])
    (folder / "results" / cells[0].key).write_bytes(b"\0" * 40)
    (outcome,) = head.results()
    assert outcome.reason is not None
    assert outcome.reason.startswith("InputError: the result file was damaged: ")
    head.submit(cells[1].key, cells[1])
    (waiting,) = (folder / "cells").glob(f"*{cells[1].key}")
    waiting.write_text("{}")
    threading.Timer(0.5, head.close).start()
    assert work(folder, lambda key, cell: Outcome(key, value(cell)), 20) == 2
    (outcome,) = head.results()
    assert outcome.reason is not None
    assert outcome.reason.startswith("InputError: a cell has the fields ")


def test_results_travel_whole(tmp_path: Path) -> None:
    cell = cells_of(FEW)[0][1]
    for outcome in (Outcome("key", value(cell)), Outcome("key", reason="out of memory")):
        (tmp_path / "key").write_bytes(mailbox._bytes(outcome))
        back = mailbox._read(tmp_path / "key")
        assert back.reason == outcome.reason
        if outcome.value:
            found, *rest = back.value
            assert rest == list(outcome.value[1:])
            assert found.lanes == outcome.value[0].lanes
            assert found.columns["top1"].tobytes() == outcome.value[0].columns["top1"].tobytes()


def test_refusals_are_one_line(capsys: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    code, _, err = command(capsys, monkeypatch, "study", "work", tmp_path / "none")
    assert (code, err.partition(";")[0]) == (2, f"overq: {tmp_path}/none: no such folder")
    if os.getuid() == 0:
        os.chown(folder, 12345, -1)
        with pytest.raises(InputError, match="belongs to another user$"):
            work(folder, lambda key, cell: Outcome(key), 0)
        os.chown(folder, 0, -1)
    begin = time.monotonic()
    assert command(capsys, monkeypatch, "study", "work", folder, "--wait", "0")[:2] == (0, "0 cells run\n")
    assert time.monotonic() - begin < 60
    (tmp_path / "s.toml").write_text("")
    for words, reason in (("--engine slurm", "slurm: local, ray or folder"), ("--engine folder", "folder needs --address")):
        code, _, err = command(capsys, monkeypatch, "study", "run", tmp_path / "s.toml", *words.split())
        assert (code, err) == (2, f"overq: --engine {reason}\n")
