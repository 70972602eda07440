"""What stands in a store never makes code run, and a store that is damaged, empty, older, of something else or read-only says so."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study_cases import STUDY, Inline, cells, command, cost_of, fill, first

from overq.errors import InputError, OverqError
from overq.study import store as stores
from overq.study.cell import Cell, cells_of
from overq.study.evaluate import evaluate
from overq.study.run import run
from overq.study.store import Store, cell_of, lives, process_name
from overq.study.table import records
from overq.study.workers import outcome_of

SETTINGS = replace(STUDY, settings=STUDY.settings[:2], shards=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sqlite"


def filled(path: Path) -> Store:
    store = Store(path)
    fill(store, cells(SETTINGS), lambda label, shard: first(8), cost_of)
    return store


def test_a_cell_goes_to_json_and_back_and_keeps_its_key() -> None:
    assert cells(STUDY)[-1].to_json()["recipe"]["calibration"] == "format-mse", "the whole recipe stands there"
    for cell in cells(STUDY):
        again = Cell.from_json(json.loads(json.dumps(cell.to_json())))
        assert again == cell
        assert again.key == cell.key


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"limit": 5},
        {"measures": ("top1",)},
        {"content": "other"},
        {"versions": (("code", "x"),)},
        {"study": "t"},
        {"shard": 1},
    ],
)
def test_all_that_a_result_depends_on_is_in_the_key(change: dict) -> None:
    cell = cells(STUDY)[0]
    assert replace(cell, **change).key != cell.key


def test_where_the_files_lie_is_not_in_the_key() -> None:
    cell = cells(STUDY)[0]
    moved = replace(cell, network=replace(cell.network, images="/elsewhere"), measures=("top1", "/a/mine.py:f"))
    assert moved.key == replace(cell, measures=("top1", "/b/mine.py:f")).key


def test_a_store_from_someone_else_cannot_make_code_run(path: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """Under the keys of the study's own cells stands a network that would leave a mark; and pending cells of another study, too."""
    evil, mark = tmp_path / "evil.py", tmp_path / "mark"
    evil.write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    study = replace(SETTINGS, limit=20, settings=STUDY.settings[:1])
    mine, store = cells_of(study)[0], Store(path)
    store.add("s", mine)
    for row in store.rows():
        changed = json.loads(row["cell"])
        changed["network"]["model"] = f"{evil}:build"
        store.db.execute("UPDATE cells SET cell=? WHERE key=?", (json.dumps(changed), row["key"]))
        changed["measures"], changed["study"] = [f"{evil}:f"], "other"
        store.add("other", [Cell.from_json(changed)])
    assert run(store, mine, Inline()).done == 1
    for words in (("show",), ("export", path.with_name("o.csv")), ("show", "--study", "other")):
        command(capsys, monkeypatch, "study", *words, "--store", path)
    assert not mark.exists()
    assert (
        outcome_of(mine[0].key, Cell.from_json(changed), evaluate).reason == "InputError: the cell is not the one that its key stands for"
    )


def test_a_cell_that_its_key_does_not_stand_for_is_refused_everywhere(path: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    store = filled(path)
    text = store.rows()[0]["cell"].replace('"seed": 0', '"seed": 7')
    store.db.execute("UPDATE cells SET cell=? WHERE rowid=1", (text,))
    for words in (("show",), ("export", tmp_path / "o.csv"), ("plot", tmp_path / "o.png"), ("compare", "float", "float")):
        code, _, err = command(capsys, monkeypatch, "study", *words, "--store", path)
        assert code == 2
        assert "is not what its key stands for: damaged, or changed by hand" in err
        assert err.count("\n") == 1


def test_stores_that_cannot_be_used_say_why_in_one_line(path: Path, capsys, monkeypatch) -> None:
    def shown() -> str:
        code, _, err = command(capsys, monkeypatch, "study", "show", "--store", path)
        assert (code, err.count("\n")) == (2, 1), err
        return err

    path.touch()
    assert "an empty file, no store of study results" in shown()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.commit()
    assert "an SQLite database, but not a store of study results" in shown()
    db.execute("CREATE TABLE cells (key TEXT, task TEXT, completions INTEGER)")
    db.commit()
    assert "a store of an earlier version of overq" in shown()
    db.execute(f"PRAGMA application_id={stores.APPLICATION}")
    db.execute("PRAGMA user_version=99")
    db.commit()
    assert "a store of layout 99" in shown()
    db.close()
    path.write_bytes(path.read_bytes()[:1000])
    assert "not a usable store of study results" in shown()
    with pytest.raises(InputError):
        Store(path)  # nor does `run` write into any of them


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_store_is_read_or_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    whole = tmp_path / "whole.sqlite"
    if not whole.exists():
        filled(whole).close()
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "d.sqlite"
    path.write_bytes(content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])
    with suppress(OverqError):
        store = Store(path, read_only=True)
        records(store.rows())
        store.close()


def test_a_result_that_makes_no_sense_is_refused(path: Path) -> None:
    store = filled(path)
    for column, value in (("columns", b"x"), ("columns", b""), ("lanes", "[]"), ("cost", "{}"), ("cost", '{"bits": 3}'), ("made_by", "3")):
        store.db.execute("SAVEPOINT s")
        store.db.execute(f"UPDATE cells SET {column}=? WHERE rowid=2", (value,))
        with pytest.raises(InputError, match="^the store's result of cell .* is damaged: "):
            records(store.rows())
        store.db.execute("ROLLBACK TO s")
    assert len(records(store.rows())) == 2


def test_show_reads_a_store_without_writing_beside_it(path: Path, capsys, monkeypatch) -> None:
    filled(path).close()
    before = path.read_bytes(), sorted(path.parent.iterdir())
    assert command(capsys, monkeypatch, "study", "show", "--store", path)[0] == 0
    assert (path.read_bytes(), sorted(path.parent.iterdir())) == before


def test_show_plays_a_left_journal_back_in_a_copy(path: Path, monkeypatch) -> None:
    """As on read-only media: opened read-only, SQLite cannot play it back."""
    filled(path).close()
    real = stores._connected

    def connected(at: Path, options: str = "") -> sqlite3.Connection:
        if options:
            raise sqlite3.OperationalError("attempt to write a readonly database")
        assert at != path
        return real(at, options)

    monkeypatch.setattr(stores, "_connected", connected)
    store = Store(path, read_only=True)
    assert len(store.rows()) == 2
    store.close()


def test_a_claim_is_a_lease(path: Path, monkeypatch) -> None:
    one, two = Store(path), Store(path)
    one.add("s", cells(SETTINGS))
    keys = {cell.key for cell in cells(SETTINGS)}
    two.owner = "another-host:1:2"
    assert two.claim(keys, 1)
    assert one.free_dead() == 0, "the other machine gave a sign of life just now"
    one.db.execute("UPDATE cells SET beat=beat-?", (stores.LEASE + 1,))
    monkeypatch.setattr(stores, "RENEWED", 0.05)
    with two.alive():
        time.sleep(0.5)
    assert one.free_dead() == 0, "it renewed its lease"
    one.db.execute("UPDATE cells SET beat=beat-?", (stores.LEASE + 1,))
    assert one.free_dead() == 1, "its machine is gone"


def test_who_lives() -> None:
    me = process_name(1).rpartition(":")[0].rpartition(":")[0]
    now = time.time()
    assert lives(process_name(__import__("os").getpid()), now)
    assert not lives(f"{me}:999999999:1", now)
    assert lives(f"{socket.gethostname()}/[1]:999999999:1", now), "a container of the same name: its processes cannot be seen from here"
    assert not lives(f"{socket.gethostname()}/[1]:999999999:1", now - stores.LEASE)
    assert not lives(None, now)
    assert lives(f"{me}:nonsense", now)
    assert not lives(f"{me}:{10**30}:1", now)


def test_rows_are_what_was_added(path: Path) -> None:
    store = Store(path)
    store.add("s", cells(STUDY))
    assert [cell_of(row) for row in store.rows()] == cells(STUDY)
