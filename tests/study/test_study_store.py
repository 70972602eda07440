"""The store: claims, dead processes, a full disk; and the executor's dying workers."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study_cases import DIGITS

from overq.compare import mcnemar, paired
from overq.methods import Cost
from overq.records import LayerInput
from overq.spec import Counts
from overq.study.cell import Cell
from overq.study.measure import Measured, joined, layers_to_json
from overq.study.plan import Setting
from overq.study.run import run
from overq.study.store import Store, result_of
from overq.study.workers import LocalWorkers, Outcome

REPO = Path(__file__).resolve().parents[2]
SMALL = """
shards = 4
samples = 0
batch_size = 112
[[networks]]
name = "digits"
model = "overq.study.digits:network"
images = "digits"
calibration = "digits"
[[methods]]
method = "overq"
bits = 3
"""


FOUND = Measured({"top1": (np.arange(7) % 2 == 0)[:, None].astype(float)})
RESULT = FOUND, Cost(4.0, 2.0, 4.0, 8), 0.5, {}


def cells(count):
    """Cells of one setting; their keys sort as their shards."""
    setting = Setting("overq", (("bits", 3),), 8)
    return [Cell("s", DIGITS, setting, i, "c", (), shards=10) for i in range(count)]


KEYS = [cell.key for cell in cells(7)]


def test_what_is_known_of_layers_comes_back_and_an_earlier_versions_lanes_do_too() -> None:
    seen = LayerInput("a", 0.0, 6.5, (0.0, 3.25, 6.5), (9, 1), ((0.5, 6.5),), 2)
    lanes = {"a": (Counts(9, 4, 2, 1, 1), 4), "b": (Counts(9, 1), 4)}
    found = replace(FOUND, lanes=lanes, steps={"a": ("A4 r3+f3 c4", 0.25, None)}, inputs=(seen,))
    assert joined(FOUND.columns, json.loads(json.dumps(layers_to_json(found)))) == found
    assert joined(FOUND.columns, {"lanes": [9, 4, 2, 1, 1, 4]}).lanes == {"lanes": lanes["a"]}, "a layer of that name, years ago"
    for damaged in (
        {"lanes": {}, "steps": {"a": [1]}, "inputs": []},
        {"lanes": {}},
        {"lanes": {}, "steps": {}, "inputs": [{"edges": [1]}]},
    ):
        with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
            joined(FOUND.columns, damaged)


class Inline:
    """An executor without processes: the narrow interface is enough. Shard 1 fails, the rest give seven images."""

    slots = 2

    def __init__(self):
        self.waiting = []

    def submit(self, key, cell):
        self.waiting.append((key, cell.shard))

    def results(self):
        for key, i in self.waiting:
            yield Outcome(key, reason="out of memory") if i == 1 else Outcome(key, RESULT)
        self.waiting = []

    def close(self):
        pass


def test_a_failed_cell_is_marked_and_retried_and_the_rest_goes_on(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    store.add("s", cells(5))
    tally = run(store, cells(5), Inline())
    assert (tally.done, tally.failed) == (4, 1)
    assert [(r["state"], r["reason"]) for r in store.rows()][1] == ("failed", "out of memory")
    np.testing.assert_array_equal(result_of(store.rows()[0])[0].columns["top1"][:, 0], [1, 0, 1, 0, 1, 0, 1])
    store.add("s", cells(6))  # more cells later: what is done stays
    assert store.retry() == 1
    assert run(store, cells(6)[5:], Inline()).done == 1
    assert [r["completions"] for r in store.rows()] == [1, 0, 1, 1, 1, 1]


def test_a_claim_is_exclusive_and_a_dead_owner_gives_it_back(tmp_path):
    one, two = Store(tmp_path / "s.sqlite"), Store(tmp_path / "s.sqlite")
    one.add("s", cells(1))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    two.owner = one.owner.rsplit(":", 2)[0] + f":{dead.pid}:1"
    assert two.claim(set(KEYS[:1]), 1)
    assert not one.claim(set(KEYS[:1]), 1)
    assert one.free_dead() == 1
    assert one.claim(set(KEYS[:1]), 1) == KEYS[:1]
    assert not two.finish({KEYS[0]: RESULT}), "a cell that was taken away cannot be recorded twice"
    assert one.free_dead() == 0, "a living owner keeps its cell"


def test_a_claim_prefers_settings_that_no_other_worker_is_at(tmp_path):
    three, four = (("bits", 3),), (("bits", 4),)
    settings = [Setting("float"), Setting("overq", three, 8), Setting("overq", three, 4), Setting("overq", four, 8)]
    store = Store(tmp_path / "s.sqlite")
    mine = [replace(cells(1)[0], setting=setting) for setting in settings]
    store.add("s", mine)
    labels = {cell.key: cell.setting.label for cell in mine}
    assert [labels[store.claim(set(labels), 1)[0]] for _ in range(4)] == ["float", "overq:bits=3:W8", "overq:bits=4:W8", "overq:bits=3:W4"]
    assert not store.claim(set(labels), 1)


def test_a_full_disk_leaves_the_cell_for_later(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    store.add("s", cells(1))
    pages = store.db.execute("PRAGMA page_count").fetchone()[0]
    store.db.execute(f"PRAGMA max_page_count={pages}")

    class Big(Inline):
        def results(self):
            for key, _ in self.waiting:
                yield Outcome(key, (Measured({"top1": np.ones((1_000_000, 1))}), *RESULT[1:]))
            self.waiting = []

    tally = run(store, cells(1), Big())
    assert (tally.done, tally.unwritten) == (0, 1)
    row = store.rows()[0]
    assert row["state"] == "failed"
    assert "full" in row["reason"]
    store.db.execute("PRAGMA max_page_count=100000")
    store.retry()
    assert run(store, cells(1), Big()).done == 1


def test_a_dead_worker_is_replaced_and_its_cell_gets_the_reason():
    workers = LocalWorkers(1, 1)
    try:
        os.kill(workers._idle[0][1].pid, signal.SIGKILL)
        workers.submit("k", cells(1)[0])
        assert "died (exit code -9)" in next(iter(workers.results())).reason
        workers.submit("k", cells(1)[0])
        assert next(iter(workers.results())).reason == "InputError: the cell is not the one that its key stands for"
    finally:
        workers.close()


def test_mcnemar_by_hand():
    assert mcnemar(0, 5) == 2 / 32
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(1, 8) == pytest.approx(2 * (1 + 9) / 512)
    result = paired(np.array([1, 1, 0, 0] * 50, bool), np.array([1, 1, 1, 0] * 50, bool))
    assert (result.only_a, result.only_b, result.difference) == (0, 50, 25.0)
    assert 18 < result.low < 20 < 30 < result.high < 32


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments_nothing_is_lost_or_doubled(tmp_path, kills):
    (tmp_path / "s.toml").write_text(SMALL)
    command = [sys.executable, "-m", "overq", "study", "run", str(tmp_path / "s.toml"), "--store", str(tmp_path / "s.sqlite")]
    chance, seen, interrupted = random.Random(1910), {}, 0
    for _ in range(kills):
        process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.5, 8))
        interrupted += process.poll() is None
        process.kill()
        process.wait()
        if (tmp_path / "s.sqlite").exists():
            now = {r["key"]: r["columns"] for r in Store(tmp_path / "s.sqlite").rows() if r["state"] == "done"}
            assert seen.items() <= now.items(), "a recorded result is never lost or changed"
            seen = now
            if len(seen) == 32:  # start over, so that later kills meet work too
                for file in tmp_path.glob("s.sqlite*"):
                    file.unlink()
                seen = {}
    assert interrupted >= kills // 2
    subprocess.run(command, cwd=REPO, capture_output=True)  # frees what the last kill held
    store = Store(tmp_path / "s.sqlite")
    store.retry()  # a cell that was under way in three kills counts as a killer
    store.close()
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    done = Store(tmp_path / "s.sqlite").rows()
    assert len(done) == 32
    assert {(r["state"], r["completions"]) for r in done} == {("done", 1)}
    assert sum(len(result_of(r)[0].columns["top1"]) for r in done if r["label"] == "float") == 896
