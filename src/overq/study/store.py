"""The results of studies in one SQLite file: a row per cell, found by the hash of everything that its result depends on.

pending -> running (claimed by one process) -> done, or failed with a reason; a running cell whose process is dead is pending again.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from overq.errors import InputError

MAX_DEATHS = 3  # a cell whose runs died this often is marked failed: it probably kills them
_TABLE = """CREATE TABLE IF NOT EXISTS cells (
  key TEXT PRIMARY KEY, study TEXT NOT NULL, network TEXT NOT NULL, label TEXT NOT NULL, method TEXT NOT NULL, shard INTEGER NOT NULL,
  task TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'pending', owner TEXT, deaths INTEGER NOT NULL DEFAULT 0, reason TEXT,
  completions INTEGER NOT NULL DEFAULT 0, images INTEGER, correct BLOB, cost TEXT, seconds REAL, versions TEXT, finished REAL) STRICT"""


class Store:
    """One connection; safe to open from several processes at once."""

    def __init__(self, path: Path) -> None:
        self.path, self.owner = path, process_name(os.getpid())
        try:
            self.db = sqlite3.connect(path, timeout=60, isolation_level=None)
            self.db.row_factory = sqlite3.Row
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: not a usable store of study results: {error}") from error

    def close(self) -> None:
        self.db.close()

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Add cells; those that are there already stay as they are. A row may come with a state and its reason."""
        rows = [{"state": "pending", "reason": None, **row} for row in rows]
        with self._whole("add cells"):
            self.db.executemany(
                "INSERT OR IGNORE INTO cells (key, study, network, label, method, shard, task, state, reason) "
                "VALUES (:key, :study, :network, :label, :method, :shard, :task, :state, :reason)",
                rows,
            )

    @contextmanager
    def _whole(self, what: str) -> Iterator[None]:
        """All that is written inside, or nothing; InputError where it cannot be, most likely because the disk is full."""
        try:
            self.db.execute("BEGIN IMMEDIATE")
            yield
            self.db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if self.db.in_transaction:  # SQLite may have rolled it back itself
                self.db.execute("ROLLBACK")
            raise InputError(f"{self.path}: cannot {what}: {error}") from error

    def forget(self, study: str, prefix: str) -> None:
        """Remove a study's cells without a result whose key begins so."""
        with self._whole("remove cells"):
            self.db.execute("DELETE FROM cells WHERE study=? AND state<>'done' AND substr(key, 1, ?)=?", (study, len(prefix), prefix))

    def claim(self, keys: set[str]) -> sqlite3.Row | None:
        """Take one pending cell out of `keys`, oldest first; no other process can take it too.

        One whose setting (but for its weight bits) another worker is at comes last: that worker has its steps already.
        """
        with self._whole("claim a cell"):
            busy = {_setting(r) for r in self.db.execute("SELECT network, label FROM cells WHERE state='running'")}
            pending = self.db.execute("SELECT key, network, label FROM cells WHERE state='pending' ORDER BY rowid")
            wanted = [(r["key"], _setting(r)) for r in pending if r["key"] in keys]
            if not wanted:
                return None
            key = next((key for key, setting in wanted if setting not in busy), wanted[0][0])
            self.db.execute("UPDATE cells SET state='running', owner=?, reason=NULL WHERE key=?", (self.owner, key))
            row: sqlite3.Row = self.db.execute("SELECT * FROM cells WHERE key=?", (key,)).fetchone()
            return row

    def finish(self, key: str, correct: np.ndarray, cost: dict[str, float], seconds: float, versions: dict[str, str]) -> bool:
        """Record a result, at once and whole; False where this process does not hold the cell (any more)."""
        done = self.db.execute(
            "UPDATE cells SET state='done', completions=completions+1, images=?, correct=?, cost=?, seconds=?, versions=?, finished=? "
            "WHERE key=? AND state='running' AND owner=?",
            (len(correct), np.packbits(correct).tobytes(), json.dumps(cost), seconds, json.dumps(versions), time.time(), key, self.owner),
        )
        return done.rowcount == 1

    def fail(self, key: str, reason: str) -> None:
        """Mark a cell that this process holds."""
        self.db.execute("UPDATE cells SET state='failed', reason=? WHERE key=? AND state='running' AND owner=?", (reason, key, self.owner))

    def free_dead(self) -> int:
        """Make cells of dead processes on this machine pending again; how many."""
        owners = [r[0] for r in self.db.execute("SELECT DISTINCT owner FROM cells WHERE state='running'")]
        freed = 0
        for owner in owners:
            if not alive(owner):
                freed += self.db.execute(
                    "UPDATE cells SET deaths=deaths+1, state=CASE WHEN deaths+1 >= ? THEN 'failed' ELSE 'pending' END, "
                    "reason='the process that ran it died' WHERE state='running' AND owner=?",
                    (MAX_DEATHS, owner),
                ).rowcount
        return freed

    def retry(self) -> int:
        """Make failed cells pending again; how many."""
        return self.db.execute("UPDATE cells SET state='pending', deaths=0 WHERE state='failed'").rowcount

    def rows(self, study: str | None = None) -> list[sqlite3.Row]:
        """All cells, or one study's, in the order they were added."""
        where = "" if study is None else " WHERE study=?"
        return self.db.execute(f"SELECT * FROM cells{where} ORDER BY rowid", () if study is None else (study,)).fetchall()


def _setting(row: sqlite3.Row) -> tuple[str, str]:
    """Network and label without the weight bits."""
    return row["network"], row["label"].rpartition(":W")[0]


def bits(row: sqlite3.Row) -> np.ndarray:
    """Bool [images]: which images of the shard were classified correctly."""
    return np.unpackbits(np.frombuffer(row["correct"], np.uint8), count=row["images"]).astype(bool)


def process_name(pid: int) -> str:
    """host:pid:start; the start time tells a process from a later one with the same number."""
    try:
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        start = ""
    return f"{socket.gethostname()}:{pid}:{start}"


def alive(owner: str) -> bool:
    """Whether the process lives; one on another machine is taken to."""
    host, pid, _ = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return process_name(int(pid)) == owner
