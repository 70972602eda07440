"""One cell's work dealt to several workers: calibration in pieces, scores in shards; the records are those of one worker, bit for bit."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_cases import STUDY, Inline, command

from overq.errors import InputError
from overq.study import board as boards
from overq.study import evaluate as evaluating
from overq.study import mailbox
from overq.study.board import FolderBoard, made_together
from overq.study.cell import Cell, cells_of
from overq.study.evaluate import alone, sharing
from overq.study.plan import Setting, Study
from overq.study.run import run
from overq.study.store import Store
from overq.study.table import records
from overq.study.workers import LocalWorkers, Outcome, outcome_of

FEW = replace(STUDY, settings=STUDY.settings[:3], limit=40, samples=70, batch_size=8)


@pytest.fixture
def forgetful() -> None:
    """What earlier tests of this process observed is not known."""
    for kept in (evaluating._observed, evaluating._installed, evaluating._exact):
        kept.cache_clear()


def stored(path: Path, study: Study, executor: Any) -> Store:
    store, cells = Store(path), cells_of(study)[0]
    store.add("s", cells)
    assert run(store, cells, executor).failed == 0, [row["reason"] for row in store.rows()]
    return store


def rows(store: Store) -> dict[str, tuple[Any, ...]]:
    return {row["key"]: tuple(row[name] for name in ("state", "reason", "completions", "columns", "lanes", "cost")) for row in store.rows()}


def test_any_number_of_shards_gives_the_same_records(tmp_path: Path) -> None:
    found = []
    for shards in (1, 2, 3, 7):
        study = replace(FEW, settings=FEW.settings[1:2], limit=45, batch_size=6, samples=8, shards=shards)
        store = stored(tmp_path / f"{shards}.sqlite", study, Inline())
        found.append([asdict(replace(record, seconds=0)) for record in records(store.rows())])
    assert found[0]
    assert all(each == found[0] for each in found)


ONE = Cell("s", STUDY.networks[0], Setting("float"), 0, "", ())


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 70))
def test_shards_hold_every_image_once(count: int, shards: int, batch_size: int) -> None:
    dealt = [replace(ONE, shards=shards, shard=i, batch_size=batch_size).positions(count) for i in range(shards)]
    assert sorted(i for part in dealt for i in part) == list(range(count))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= batch_size


@pytest.mark.slow  # spawned processes
def test_local_workers_observe_together_what_one_observes(tmp_path: Path, forgetful: None) -> None:
    study = replace(FEW, settings=FEW.settings[1:2])
    shared = stored(tmp_path / "b.sqlite", study, LocalWorkers(2, 2, {"digits": 3}))
    assert rows(stored(tmp_path / "a.sqlite", study, Inline())) == rows(shared)


def test_pieces_are_made_once_and_read_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
    made: list[int] = []
    observe_piece = evaluating.observe_piece

    def counted(model: Any, samples: Any, first: int, *more: Any, **named: Any) -> Any:
        made.append(first)
        return observe_piece(model, samples, first, *more, **named)

    monkeypatch.setattr(evaluating, "observe_piece", counted)
    cells = cells_of(replace(FEW, shards=1))[0]
    wanted = [outcome_of(cell.key, cell, evaluating.evaluate).value for cell in cells]
    for _ in range(2):
        evaluating._observed.cache_clear()
        evaluating._installed.cache_clear()
        with sharing(FolderBoard(tmp_path), 3):
            got = [outcome_of(cell.key, cell, evaluating.evaluate).value for cell in cells]
        assert [repr(a[0]) for a in got] == [repr(b[0]) for b in wanted]
    assert made == [0, 23, 46]


def test_workers_that_come_by_a_folder_share_a_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
    monkeypatch.setattr(mailbox, "LOOK", 0.01)
    folder = tmp_path / "cells"
    folder.mkdir()

    def one(key: str, cell: Cell) -> Outcome:
        with sharing(FolderBoard(folder / "observed"), mailbox.observers_of(folder, cell.network.name)):
            return outcome_of(key, cell, evaluating.evaluate)

    threading.Thread(target=mailbox.work, args=(folder, one, 20), daemon=True).start()
    study = replace(FEW, settings=FEW.settings[1:2])
    shared = stored(tmp_path / "a.sqlite", study, mailbox.MailboxWorkers(folder, {"digits": 2}))
    evaluating._observed.cache_clear()
    evaluating._installed.cache_clear()
    assert rows(shared) == rows(stored(tmp_path / "b.sqlite", study, Inline()))
    assert not [p for p in folder.rglob("*") if p.is_file()], "nothing is left lying about"
    (folder / "observers").write_text("[3")
    with pytest.raises(InputError, match="observers: not what a head writes"):
        mailbox.observers_of(folder, "digits")


def test_each_part_is_made_once_whoever_asks(tmp_path: Path) -> None:
    board, made, got = FolderBoard(tmp_path), [], []

    def part(number: int) -> bytes:
        made.append(number)
        time.sleep(0.02)
        return bytes([number]) * (9 << 20 if number == 2 else number)

    def ask() -> None:
        got.append(made_together(board, "x", [lambda i=i: part(i) for i in range(4)]))  # type: ignore[misc]

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [0, 1, 2, 3]
    assert got == [[b"", b"\1", b"\2" * (9 << 20), b"\3\3\3"]] * 3
    assert not list(tmp_path.glob("*.part"))


def test_a_part_whose_maker_died_is_made_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = FolderBoard(tmp_path)
    assert board.take("x-0")
    board.add("x-0", "dead", 0, b"half")
    assert not board.take("x-0"), "it may live"
    monkeypatch.setattr(boards, "LEASE", 0.3)
    assert made_together(board, "x", [lambda: b"whole"]) == [b"whole"]


def test_a_part_that_cannot_be_made_fails_for_whoever_tried_it(tmp_path: Path) -> None:
    board = FolderBoard(tmp_path)

    def fails() -> bytes:
        raise InputError("no")

    for _ in range(2):
        with pytest.raises(InputError, match="^no$"):
            made_together(board, "x", [fails])
    assert made_together(board, "x", [lambda: b"yes"]) == [b"yes"]


def test_a_board_that_is_gone_leaves_everybody_to_make_all(tmp_path: Path) -> None:
    board = FolderBoard(tmp_path / "gone")
    assert made_together(board, "x", [lambda: b"one", lambda: b"two"]) == [b"one", b"two"]
    board.folder.mkdir()

    def cleared() -> bytes:
        shutil.rmtree(board.folder)
        return b"mine"

    assert made_together(board, "x", [cleared]) == [b"mine"]


def test_what_each_worker_calibrates_for_itself_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(**parameters: Any) -> str:
        return alone(Setting("recipe", tuple({"bits": 3, "cascade": 2, **parameters}.items()), 8))

    assert [of(), of(sequential=True), of(reorder_network=True)] == ["", "sequential", "reorder_network"]
    assert (of(source="statistics"), alone(Setting("float"))) == ("source statistics", "")
    assert alone(Setting("recipe", (("budget", 4.5),), 8)) == "budget"
    (tmp_path / "s.toml").write_text(
        'samples = 16\nlimit = 8\nplain = []\n[[networks]]\nname = "digits"\nmodel = "overq.study.digits:network"\nimages = "digits"\n'
        'calibration = "digits"\n[[recipes]]\nbits = 3\ncascade = 2\nsequential = true\n[resources]\nobservers = 2\n'
    )
    code, out, err = command(capsys, monkeypatch, "study", "run", tmp_path / "s.toml", "--store", tmp_path / "s.sqlite")
    assert (code, out) == (0, "2 cells: 2 done, 2 of them now, 0 failed\n")
    assert "observers share what float networks see; 1 settings (sequential) calibrate further, each worker for itself\n" in err
    code, _, err = command(capsys, monkeypatch, "study", "run", tmp_path / "s.toml", "--store", tmp_path / "s.sqlite", "--observers", "1")
    assert (code, "observers" in err) == (0, False)
