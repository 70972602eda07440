"""What can go wrong with a cell or the store: that cell gets its reason, the rest goes on."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from study_cases import STUDY, Inline, command

from overq.errors import InputError
from overq.study.cell import cells_of
from overq.study.evaluate import evaluate
from overq.study.plan import Network, Setting, Study
from overq.study.run import run
from overq.study.store import Store
from overq.study.workers import LocalWorkers, Outcome, outcome_of

NETS = '''
import multiprocessing, os, signal
import torch

WORKER = multiprocessing.parent_process() is not None

class Net(torch.nn.Module):
    """Two classes from the image's mean; what `fault` does happens in workers only."""

    def __init__(self, fault):
        super().__init__()
        self.fault, self.conv, self.out = fault, torch.nn.Conv2d(3, 4, 1), torch.nn.Linear(4, 2)

    def forward(self, x):
        if WORKER:
            self.fault()
        return self.out(torch.relu(self.conv(x)).mean((2, 3)))

def nothing():
    pass

def killed():
    os.kill(os.getpid(), signal.SIGKILL)

def memory():
    raise MemoryError

def allocation():
    torch.empty(2**60)

def good(): return Net(nothing)
def dies(): return Net(killed)
def full(): return Net(memory)
def huge(): return Net(allocation)
'''


PARENT = """
from overq.study.cell import Cell
from overq.study.plan import Network, Setting
from overq.study.version import versions
from overq.study.workers import LocalWorkers

if __name__ == "__main__":
    workers = LocalWorkers(1, 1)
    print(workers._idle[0][1].pid, flush=True)
    cell = Cell("s", Network("n", "slow.py:net", "digits", "digits"), Setting("float"), 0, "c", tuple(versions().items()))
    workers.submit(cell.key, cell)
    next(workers.results())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten labelled images in two classes, and the networks."""
    rng = np.random.default_rng(0)
    (tmp_path / "nets.py").write_text(NETS)
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / "images" / label / f"{i}.png")
    return tmp_path


def study(folder: Path, *factories: str, shards: int = 1) -> Study:
    images = folder / "images"
    networks = tuple(Network(name, f"{folder}/nets.py:{name}", str(images), str(images / "b")) for name in factories)
    return Study("faults", networks, (Setting("float"),), shards=shards)


def test_an_image_that_breaks_off_fails_its_own_shard_only(folder: Path) -> None:
    broken = folder / "images" / "a" / "1.png"
    broken.write_bytes(broken.read_bytes()[:500])  # the header is fine
    store, cells = Store(folder / "s.sqlite"), cells_of(study(folder, "good", shards=5))[0]
    store.add("faults", cells)
    tally = run(store, cells, Inline())
    assert (tally.done, tally.failed) == (4, 1)
    assert next((r["state"], r["reason"]) for r in store.rows()) == ("failed", f"InputError: {broken}: not a readable image (OSError)")


def test_cells_out_of_memory_and_killed_workers_are_marked_and_the_rest_goes_on(folder: Path) -> None:
    cells, store = cells_of(study(folder, "dies", "full", "huge", "good"))[0], Store(folder / "s.sqlite")
    store.add("faults", cells)
    tally = run(store, cells, LocalWorkers(1, 1))
    assert (tally.done, tally.failed) == (1, 3)
    assert {r["network"]: r["reason"] for r in store.rows()} == {
        "dies": "the worker process died (exit code -9)",
        "full": "out of memory",
        "huge": "out of memory",
        "good": None,
    }


def test_code_that_changed_while_a_study_ran_is_not_mixed_in(folder: Path) -> None:
    (cell,) = cells_of(study(folder, "good"))[0]
    cell = replace(cell, versions=(("code", "old"),))
    assert outcome_of(cell.key, cell, evaluate) == Outcome(
        cell.key, reason="InputError: the code or a library changed after the study was started; start it again"
    )


def test_a_disk_too_full_for_a_claim_ends_the_run_in_one_line_and_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    cells = cells_of(replace(STUDY, shards=3, settings=STUDY.settings[:1]))[0]
    store.add("s", cells)
    store.db.execute(f"PRAGMA max_page_count={store.db.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(InputError, match="cannot add cells: database or disk is full$"):
        store.add("s", cells_of(replace(STUDY, shards=50))[0])
    store.db.execute("UPDATE cells SET state='done' WHERE key=?", (cells[0].key,))
    assert [r["key"] for r in store.rows()] == [cell.key for cell in cells], "all of what is added, or nothing"

    class Full:
        """A connection whose disk has no room for the claim."""

        in_transaction = True

        def execute(self, text: str, *values: object) -> object:
            return real.execute(text, *values)

        def executemany(self, text: str, rows: object) -> object:
            raise sqlite3.OperationalError("database or disk is full")

    real, store.db = store.db, Full()
    with pytest.raises(InputError, match="s.sqlite: cannot claim a cell: database or disk is full$"):
        run(store, cells[1:2], Inline())
    store.db = real
    assert [r["state"] for r in store.rows()] == ["done", "pending", "pending"]


def test_run_says_what_is_absent_goes_on_and_ends_with_an_error(folder: Path, capsys, monkeypatch) -> None:
    text = 'shards = 1\n[[methods]]\nmethod = "overq"\nbits = 3\n'
    for name, images in (("gone", "gone"), ("good", "images")):
        text += f'[[networks]]\nname = "{name}"\nmodel = "nets.py:good"\nimages = "{images}"\ncalibration = "images"\n'
    (folder / "mine.toml").write_text(text)
    words = "study", "run", folder / "mine.toml", "--store", folder / "s.sqlite"
    code, out, err = command(capsys, monkeypatch, *words)
    assert (code, out) == (2, "16 cells: 8 done, 8 of them now, 8 failed\n")
    assert f"gone: {folder}/gone: no such file or folder; its 8 cells are marked failed" in err
    assert f"8 failed: {folder}/gone: no such file or folder\noverq: 8 cells failed: `overq study show` says which" in err
    code, out, _ = command(capsys, monkeypatch, "study", "show", "--store", folder / "s.sqlite")
    assert code == 0
    assert f"failed: mine gone 8 cells, float shard 0 … overq:bits=3:W8 shard 0: {folder}/gone: no such file or folder\n" in out


def test_a_file_that_is_no_store_is_refused(tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "s.sqlite").write_text("x" * 5000)
    code, _, err = command(capsys, monkeypatch, "study", "show", "--store", tmp_path / "s.sqlite")
    assert (code, err) == (2, f"overq: {tmp_path}/s.sqlite: not a usable store of study results: file is not a database\n")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_worker_ends_in_the_middle_of_its_cell_when_its_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ndef net():\n    print('busy', flush=True)\n    time.sleep(600)\n")
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = Path(f"/proc/{parent.stdout.readline().strip()}")
        assert parent.stdout.readline() == "busy\n"
        assert worker.exists()
        parent.kill()
    end = time.monotonic() + 60
    while worker.exists() and "State:\tZ" not in (worker / "status").read_text() and time.monotonic() < end:
        time.sleep(0.05)
    assert time.monotonic() < end


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_control_c_reaches_the_parent_alone() -> None:
    workers = LocalWorkers(1, 1)
    try:
        status = Path(f"/proc/{workers._idle[0][1].pid}/status").read_text()
        blocked = int(next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16)
        assert blocked & 1 << signal.SIGINT - 1
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        workers.close()
