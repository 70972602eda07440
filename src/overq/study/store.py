"""The results of studies in one SQLite file: a row per cell, found by the hash of everything that its result depends on.

pending -> running (claimed by one process) -> done, or failed with a reason. A claim is a lease: the owner renews it while it works.
A running cell whose process is dead, or whose lease has run out (its machine is gone), is pending again.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from overq.errors import InputError
from overq.methods import Cost
from overq.study.cell import Cell, key_of
from overq.study.measure import Measured, joined, layers_to_json
from overq.study.signs import Sign
from overq.text import visible

APPLICATION, LAYOUT = 0x6F767271, 2  # SQLite's marks of whose file it is: "ovrq", and the layout of the table below
MAX_DEATHS = 3  # a cell whose runs died this often is marked failed: it probably kills them
PASSED = 256  # cells that a claim leaves to others before it takes one of theirs
LEASE, RENEWED = 600.0, 60.0  # seconds that a claim holds without a sign of life, and between two signs
_TABLE = """CREATE TABLE cells (
  key TEXT PRIMARY KEY, study TEXT NOT NULL, network TEXT NOT NULL, label TEXT NOT NULL, cell TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'pending', owner TEXT, beat REAL, deaths INTEGER NOT NULL DEFAULT 0, reason TEXT,
  completions INTEGER NOT NULL DEFAULT 0, columns BLOB, lanes TEXT, cost TEXT, seconds REAL, made_by TEXT, finished REAL) STRICT"""
_COLUMNS = "key, study, network, label, cell, state, reason, completions, columns, lanes, cost, seconds, made_by"
_SETTING = "rtrim(label, '0123456789')"  # without its weight bits
_INDEXES = (  # what claims look through
    "CREATE INDEX IF NOT EXISTS pending ON cells(state) WHERE state='pending'",
    f"CREATE INDEX IF NOT EXISTS busy ON cells(network, {_SETTING}) WHERE state='running'",
)
_PENDING = f"""SELECT key, network, {_SETTING}, EXISTS (SELECT 1 FROM cells AS r WHERE r.state='running' AND r.network=cells.network AND
  rtrim(r.label, '0123456789')=rtrim(cells.label, '0123456789')) FROM cells WHERE state='pending' ORDER BY rowid"""
STATES = ("pending", "running", "done", "failed")
Result = tuple[Measured, Cost, float, dict[str, str]]  # what was measured, cost of a value, seconds, versions of what ran it


class Store:
    """One connection; safe to open from several processes at once, of one machine."""

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path, self.owner = path, process_name(os.getpid())
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        with self._in_one_line():
            self.db = self._opened(read_only)

    def _opened(self, read_only: bool) -> sqlite3.Connection:
        if not read_only:
            db = _connected(self.path)
            self._check(db, may_be_new=True)
            with suppress(sqlite3.OperationalError):  # a full disk: slower without
                for index in _INDEXES:
                    db.execute(index)
            return db
        try:
            db = _connected(self.path, "?mode=ro")
            self._check(db)
        except sqlite3.OperationalError:  # a journal is left, and on read-only media it cannot be played back: in a copy it can
            self._copy = tempfile.TemporaryDirectory()
            for file in self.path.parent.glob(f"{self.path.name}*"):
                if file.name in (self.path.name, f"{self.path.name}-journal", f"{self.path.name}-wal"):
                    shutil.copy(file, self._copy.name)
            db = _connected(Path(self._copy.name) / self.path.name)
            self._check(db)
        return db

    def _check(self, db: sqlite3.Connection, may_be_new: bool = False) -> None:
        """Refuse what is not a store of this layout; make the table in a new file."""
        whose, layout, tables = (
            db.execute(f"PRAGMA {what}").fetchone()[0] for what in ("application_id", "user_version", "schema_version")
        )
        if not tables and not whose:
            if not may_be_new:
                raise InputError(f"{self.path}: an empty file, no store of study results; `overq study run` makes one")
            db.execute("BEGIN IMMEDIATE")
            if not db.execute("SELECT 1 FROM sqlite_master").fetchone():  # nobody was faster
                db.execute(_TABLE)
                db.execute(f"PRAGMA application_id={APPLICATION}")
                db.execute(f"PRAGMA user_version={LAYOUT}")
            db.execute("COMMIT")
        elif whose != APPLICATION and "completions" in {row[1] for row in db.execute("PRAGMA table_info(cells)")}:
            raise InputError(f"{self.path}: a store of an earlier version of overq: read it with that version, and run into another file")
        elif whose != APPLICATION:
            raise InputError(f"{self.path}: an SQLite database, but not a store of study results")
        elif layout != LAYOUT:
            raise InputError(f"{self.path}: a store of layout {layout}, and this version of overq reads layout {LAYOUT}")

    @contextmanager
    def _in_one_line(self, what: str = "") -> Iterator[None]:
        """SQLite's errors in the program's words."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter from names in a damaged schema
            unusable = what and isinstance(error, sqlite3.OperationalError)
            raise InputError(
                f"{self.path}: {f'cannot {what}' if unusable else 'not a usable store of study results'}: {visible(error)}"
            ) from error

    def close(self) -> None:
        self.db.close()
        if self._copy:
            self._copy.cleanup()

    def add(self, study: str, cells: list[Cell], reasons: dict[str, str] | None = None) -> None:
        """Add a study's cells; those that are there already stay as they are. reasons: why the cells of some networks have failed."""
        reasons = reasons or {}
        rows = [
            (c.key, study, c.network.name, c.setting.label, json.dumps(c.to_json()), "failed" if c.network.name in reasons else "pending",
             reasons.get(c.network.name)) for c in cells
        ]  # fmt: skip
        with self._whole("add cells"):
            self.db.executemany(
                "INSERT OR IGNORE INTO cells (key, study, network, label, cell, state, reason) VALUES (?, ?, ?, ?, ?, ?, ?)", rows
            )

    @contextmanager
    def _whole(self, what: str) -> Iterator[None]:
        """All that is written inside, or nothing; InputError where it cannot be, most likely because the disk is full."""
        with self._in_one_line(what):
            try:
                self.db.execute("BEGIN IMMEDIATE")
                yield
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:  # SQLite may have rolled it back itself
                    self.db.execute("ROLLBACK")
                raise

    def forget(self, study: str, prefix: str) -> None:
        """Remove a study's cells without a result whose key begins so."""
        with self._whole("remove cells"):
            self.db.execute("DELETE FROM cells WHERE study=? AND state<>'done' AND substr(key, 1, ?)=?", (study, len(prefix), prefix))

    def claim(self, keys: set[str], count: int) -> list[str]:
        """Take up to `count` pending cells out of `keys`, oldest first, and return their keys; no other process can take them too.

        Those whose setting (but for its weight bits) another worker is at come last: that worker has its steps already. They are
        passed over only so far (PASSED), because every look at a cell takes time.
        """
        with self._whole("claim a cell"):
            taken: list[str] = []
            passed: list[str] = []
            mine: set[tuple[str, str]] = set()
            for key, network, setting, busy in self.db.execute(_PENDING):
                if key in keys:
                    (passed if busy or (network, setting) in mine else taken).append(key)
                    mine.add((network, setting))
                    if len(taken) == count or len(passed) == PASSED:
                        break
            taken += passed[: count - len(taken)]
            now = time.time()
            self.db.executemany(
                "UPDATE cells SET state='running', owner=?, beat=?, reason=NULL WHERE key=?", [(self.owner, now, key) for key in taken]
            )
            return taken

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Within the block, a thread with a connection of its own renews the leases of this process, and what is written is appended to
        a log, which is flushed from time to time only: nothing is lost with a process. With the machine's power the last results may be,
        each whole, and their cells run again.
        """
        _log(self.db, "WAL", "NORMAL")
        own = _connected(self.path, shared=True)

        def renew() -> None:
            with suppress(sqlite3.Error):  # a full disk: the next sign may succeed, and the lease is ten of them long
                own.execute("UPDATE cells SET beat=? WHERE state='running' AND owner=?", (time.time(), self.owner))

        try:
            with Sign(RENEWED, renew):
                yield
        finally:
            own.close()
            _log(self.db, "DELETE", "FULL")

    def finish(self, results: dict[str, Result]) -> int:
        """Record results by their cells' keys, at once and whole: all of them, or none. How many: those of cells that this process
        holds (still).
        """
        rows = []
        for key, (found, cost, seconds, made_by) in results.items():
            texts = (json.dumps(each) for each in (layers_to_json(found), asdict(cost), made_by))
            rows.append((to_bytes(found.columns), *texts, seconds, time.time(), key, self.owner))
        with self._whole("record a result"):
            return self.db.executemany(
                "UPDATE cells SET state='done', completions=completions+1, columns=?, lanes=?, cost=?, made_by=?, seconds=?, finished=? "
                "WHERE key=? AND state='running' AND owner=?",
                rows,
            ).rowcount

    def fail(self, key: str, reason: str) -> None:
        """Mark a cell that this process holds."""
        with self._in_one_line("mark a failed cell"):
            self.db.execute(
                "UPDATE cells SET state='failed', reason=? WHERE key=? AND state='running' AND owner=?", (reason, key, self.owner)
            )

    def free_dead(self) -> int:
        """Make cells of dead processes, and those whose lease has run out, pending again; how many."""
        freed = 0
        with self._whole("free cells"):
            held = self.db.execute("SELECT owner, MAX(beat) FROM cells WHERE state='running' GROUP BY owner").fetchall()
            for owner, beat in held:
                if not lives(owner, beat):
                    freed += self.db.execute(
                        "UPDATE cells SET deaths=deaths+1, state=CASE WHEN deaths+1 >= ? THEN 'failed' ELSE 'pending' END, "
                        "reason='the process that ran it died' WHERE state='running' AND owner IS ?",
                        (MAX_DEATHS, owner),
                    ).rowcount
        return freed

    def retry(self) -> int:
        """Make failed cells pending again; how many."""
        with self._whole("change cells"):
            return self.db.execute("UPDATE cells SET state='pending', deaths=0 WHERE state='failed'").rowcount

    def rows(self, study: str | None = None) -> list[sqlite3.Row]:
        """All cells, or one study's, in the order they were added."""
        where = "" if study is None else " WHERE study=?"
        with self._in_one_line():
            return self.db.execute(f"SELECT {_COLUMNS} FROM cells{where} ORDER BY rowid", () if study is None else (study,)).fetchall()


def cell_of(row: sqlite3.Row) -> Cell:
    """The cell of a row; InputError where the row is damaged or tells of another cell than its key does."""
    try:
        key, cell = _cell_in(row["cell"])
    except (InputError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"the store's cell {str(row['key'])[:16]} is damaged: {visible(error)}") from error
    if key != row["key"] or (row["network"], row["label"]) != (cell.network.name, cell.setting.label) or row["state"] not in STATES:
        raise InputError(f"the store's cell {str(row['key'])[:16]} is not what its key stands for: damaged, or changed by hand")
    return cell


@lru_cache(4096)
def _cell_in(text: str) -> tuple[str, Cell]:
    """The key that it should have, and the cell. Every command looks at each cell more than once."""
    plain = json.loads(text)
    cell = Cell.from_json(plain)
    return key_of(plain), cell


def result_of(row: sqlite3.Row) -> tuple[Measured, Cost]:
    """Of a row that is done."""
    try:
        columns = {name: values.astype(float) for name, values in from_bytes(row["columns"]).items()}
        found = joined(columns, json.loads(row["lanes"]))
        cost = Cost(**json.loads(row["cost"]))
        if not columns or any(v.ndim != 2 or not v.shape[1] for v in columns.values()) or len({len(v) for v in columns.values()}) > 1:
            raise ValueError("its columns do not fit together")
        _ = cost.bits + cost.multiplier, float(row["seconds"])
        if not all(isinstance(version, str) for version in json.loads(row["made_by"]).values()):
            raise ValueError("its versions are no text")
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(f"the store's result of cell {str(row['key'])[:16]} is damaged: {visible(error)}") from error
    return found, cost


def _connected(path: Path, options: str = "", shared: bool = False) -> sqlite3.Connection:
    """shared: made in one thread, used in another."""
    uri = path.resolve().as_uri() + options
    db = sqlite3.connect(uri, timeout=60, isolation_level=None, uri=True, check_same_thread=not shared)
    db.row_factory = sqlite3.Row
    return db


def _log(db: sqlite3.Connection, mode: str, synchronous: str) -> None:
    """How commits reach the disk; as they did before, where the disk cannot do that or another process is at the store."""
    db.execute("PRAGMA busy_timeout=0")
    with suppress(sqlite3.OperationalError):
        if db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0] == mode.lower():
            db.execute(f"PRAGMA synchronous={synchronous}")
    db.execute("PRAGMA busy_timeout=60000")


def process_name(pid: int) -> str:
    """host:pid:start. Containers may share a host's name: the namespace of the numbers goes with it. The start tells a process from a
    later one with the same number.
    """
    start = space = ""
    with suppress(OSError):
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    with suppress(OSError):
        space = "/" + str(Path("/proc/self/ns/pid").readlink())[5:-1]
    return f"{socket.gethostname()}{space}:{pid}:{start}"


def lives(owner: str | None, beat: float | None) -> bool:
    """Whether a claim holds: its process lives, as far as that can be seen from here, and gave a sign of life not long ago."""
    if owner is None or beat is None or not -LEASE < time.time() - beat < LEASE:
        return False
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != process_name(os.getpid()).partition(":")[0] or not pid.isdecimal():
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return process_name(int(pid)) == owner
