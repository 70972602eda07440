"""Studies on a Ray cluster of several nodes in one machine: the local engine's records, bit for bit, whatever dies meanwhile."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_faults
from study_cases import STUDY, Inline, command

from overq.errors import ToolError
from overq.study.cell import Cell, cells_of
from overq.study.plan import Study, read
from overq.study.resources import Resources
from overq.study.run import Tally, run
from overq.study.store import Store

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
folder = test_faults.folder
pytestmark = pytest.mark.slow
ROOM = 80 << 20  # bytes of a node's object store, the least that Ray takes
SMALL = """
shards = 4
samples = 40
limit = 96
batch_size = 8
[[networks]]
name = "digits"
model = "overq.study.digits:network"
images = "digits"
calibration = "digits"
[[methods]]
method = "overq"
bits = 3
"""


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """A head without cores, and nodes with one core each."""
    from ray.cluster_utils import Cluster

    short = tempfile.mkdtemp(prefix="r")  # names of sockets must be short
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": ROOM, "temp_dir": short, "include_dashboard": False}
    )
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1, object_store_memory=ROOM)
        yield made
    finally:
        made.shutdown()
        shutil.rmtree(short, ignore_errors=True)


def on_ray(store: Store, cells: list[Cell], address: str | None, progress: Any = lambda tally: None) -> Tally:
    from overq.study.ray_workers import RayWorkers

    workers = RayWorkers({cell.network.name: Resources(observers=2) for cell in cells}, 2, address)
    return run(store, cells, workers, progress)


def results(store: Store) -> dict[str, tuple[Any, ...]]:
    names = "state", "reason", "completions", "columns", "lanes", "cost"
    return {row["key"]: tuple(row[name] for name in names) for row in store.rows()}


def locally(path: Path, study: Study) -> dict[str, tuple[Any, ...]]:
    store, cells = Store(path / "local.sqlite"), cells_of(study)[0]
    store.add(study.name, cells)
    run(store, cells, Inline())
    return results(store)


def test_a_node_that_dies_and_one_that_joins_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SMALL)
    study = read(tmp_path / "s.toml")
    store, cells = Store(tmp_path / "s.sqlite"), cells_of(study)[0]
    store.add(study.name, cells)
    with cluster(2) as made:
        joined = []

        def change(tally: Tally) -> None:
            if tally.done >= 3 and not joined:
                made.remove_node(made.worker_nodes.copy().pop(), allow_graceful=False)
                joined.append(made.add_node(num_cpus=1, object_store_memory=ROOM))

        tally = on_ray(store, cells, made.address, change)
    assert (tally.done, tally.failed, len(joined)) == (len(cells), 0, 1)
    assert results(store) == locally(tmp_path, study)


def test_failures_come_back_as_they_do_locally(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also: files that the node finds at the head's paths are not copied. The networks' faults are those of processes with a parent."""
    nets = (folder / "nets.py").read_text().replace("multiprocessing.parent_process() is not None", f"os.getpid() != {os.getpid()}")
    (folder / "nets.py").write_text(nets.replace("def __init__(self, fault):", "def __init__(self, fault):\n        torch.manual_seed(0)"))
    monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # its sockets want a short path
    monkeypatch.setenv("TMPDIR", str(folder))
    cells, store = cells_of(test_faults.study(folder, "dies", "full", "huge", "good"))[0], Store(folder / "s.sqlite")
    store.add("faults", cells)
    tally = on_ray(store, cells, None)
    assert (tally.done, tally.failed) == (1, 3)
    assert {row["network"]: row["reason"] for row in store.rows()} == {
        "dies": "the worker process died, 3 times",
        "full": "out of memory",
        "huge": "out of memory",
        "good": None,
    }
    assert not [p for p in folder.glob("overq-*/*") if p.is_dir()]


def test_what_cannot_run_is_said_in_one_line(capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SMALL + "[resources]\ngpus = 7\n")
    words = "study", "run", tmp_path / "s.toml", "--store", tmp_path / "s.sqlite", "--engine", "ray"
    code, _, err = command(capsys, monkeypatch, *words)
    assert code == 2
    assert "overq: no node of the cluster has room for a cell of digits: Resources(cpus=1, gpus=7, memory=0, observers=1)\n" in err
    code, _, err = command(capsys, monkeypatch, *words, "--address", "ray://far:10001")
    assert (code, err.splitlines()[-1].partition(";")[0]) == (
        2,
        "overq: --address ray://far:10001: the head must run on a machine of the cluster",
    )
    from overq.study import ray_workers

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ToolError, match=r"pip install 'overq\[ray\]'$"):
        ray_workers.RayWorkers({}, 1)


def started(folder: Path, address: str) -> subprocess.Popen[bytes]:
    words = "study", "run", folder / "s.toml", "--store", folder / "s.sqlite", "--engine", "ray", "--address", address
    log = (folder / "log").open("a")
    return subprocess.Popen([sys.executable, "-m", "overq", *map(str, words)], stdout=log, stderr=log)


@pytest.mark.parametrize("kills", [3, pytest.param(30, id="thirty")])
def test_killed_at_random_on_a_cluster_nothing_is_lost_or_doubled(tmp_path: Path, kills: int) -> None:
    """Of nodes, of the head's process, and of Ray's head with all nodes: killed, and started again."""
    (tmp_path / "s.toml").write_text(SMALL)
    study, chance, told = read(tmp_path / "s.toml"), random.Random(1910), dict.fromkeys(("node", "head", "cluster"), 0)
    wanted, seen, complete = locally(tmp_path, study), {}, 0
    done = 0
    while done < kills:
        with cluster(2) as made:
            what, process = "", started(tmp_path, made.address)
            while done < kills and what != "cluster":
                until = time.time() + chance.uniform(2, 25)  # a study takes about 15 seconds
                while process.poll() is None and time.time() < until:
                    time.sleep(0.1)
                if process.poll() is None:
                    what = chance.choice(("node", "node", "head", "head", "cluster"))
                    told[what], done = told[what] + 1, done + 1
                    if what == "node":
                        made.remove_node(chance.choice(sorted(made.worker_nodes, key=id)), allow_graceful=False)
                        made.add_node(num_cpus=1, object_store_memory=ROOM)
                    else:
                        os.kill(process.pid, signal.SIGKILL)
                        process.wait()
                now = {key: row for key, row in results(Store(tmp_path / "s.sqlite")).items() if row[0] == "done"}
                assert seen.items() <= now.items(), "a recorded result is never lost or changed"
                assert now.items() <= wanted.items(), "each once, and what the local engine has"
                seen = now
                if process.poll() is not None and what != "cluster":
                    if len(seen) == len(wanted):  # start over, so that later kills meet work
                        (tmp_path / "s.sqlite").unlink()
                        seen, complete = {}, complete + 1
                    else:
                        store = Store(tmp_path / "s.sqlite")
                        store.retry()  # a cell that was under way in three kills counts as a killer
                        store.close()
                    process = started(tmp_path, made.address)
            process.kill()
            process.wait()
    with cluster(2) as made:
        started(tmp_path, made.address).wait()
        Store(tmp_path / "s.sqlite").retry()
        started(tmp_path, made.address).wait()
    assert results(Store(tmp_path / "s.sqlite")) == wanted
    assert kills < 30 or complete, "some kills met a study that was nearly done"
    print(f"{told}, {complete} times complete in between")


def test_the_study_of_a_store_may_change_engines(tmp_path: Path) -> None:
    study = replace(STUDY, settings=STUDY.settings[:2], limit=20, samples=8)
    store, cells = Store(tmp_path / "s.sqlite"), cells_of(study)[0]
    store.add("s", cells)
    run(store, cells[:2], Inline())
    assert on_ray(store, cells, None).done == 2
    assert results(store) == locally(tmp_path, study)
