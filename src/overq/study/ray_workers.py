"""Cells as tasks of a Ray cluster, behind the interface of `workers.Executor`. The store stays with this process, the head.

What nodes run is `node.run_cell`; they need this version of overq, and get networks and data from here where they have them not.
"""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from overq.errors import OverqWarning, ToolError
from overq.study.board import FolderBoard
from overq.study.cell import Cell
from overq.study.disk import Disk
from overq.study.node import run_cell
from overq.study.resources import Resources
from overq.study.store import MAX_DEATHS
from overq.study.workers import Outcome

OBJECTS = 128 << 20  # bytes of a local cluster's object store: cells, results and pieces of files are small, and so may /dev/shm be
LOOK = 2.0  # seconds after which the head looks for nodes that have come


class RayWorkers:
    """Tasks on a cluster: a new one on this machine, with `cpus` cores, or the one at `address`. most: cells at once; None: all that fit.

    A cell whose worker process dies runs again, elsewhere if its node is dead; one that this happened to MAX_DEATHS times has failed.
    ToolError where there is no Ray or no such cluster, or where a network's cell fits on none of its nodes.
    """

    def __init__(self, resources: Mapping[str, Resources], cpus: int, address: str | None = None, most: int | None = None) -> None:
        self._ray, self._resources, self._most = _connected(address, cpus), resources, most
        shared = any(wanted.observers > 1 for wanted in resources.values())
        self._folder = tempfile.TemporaryDirectory(prefix="overq-") if shared else None  # what workers share of calibrations
        try:
            for network, wanted in resources.items():
                if not any(wanted.fit(node) for node in self._nodes()):
                    raise ToolError(f"no node of the cluster has room for a cell of {network}: {wanted}")
            here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
            head = here(self._ray.get_runtime_context().get_node_id(), soft=False)
            on_head = self._ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=4)
            self._files = _Remote(on_head(Disk).options(scheduling_strategy=head).remote())
            self._board: _RemoteBoard | None = None
            if self._folder is not None:
                self._board = _RemoteBoard(on_head(FolderBoard).options(scheduling_strategy=head).remote(Path(self._folder.name)))
            self._run, self._task = uuid.uuid4().hex, self._ray.remote(max_retries=0)(run_cell)
        except BaseException:
            self.close()
            raise
        self._under_way: dict[Any, tuple[str, Cell, int]] = {}

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    @property
    def slots(self) -> int:
        """As many cells as nodes have room for now: no more, so that a worker that has a network's steps is the one to get its next cell.

        At least one: where all nodes are gone, it waits for the next.
        """
        room = sum(max(wanted.fit(node) for wanted in self._resources.values()) for node in self._nodes())
        return max(1, room if self._most is None else min(room, self._most))

    def submit(self, key: str, cell: Cell) -> None:
        self._start(key, cell, 0)

    def _start(self, key: str, cell: Cell, deaths: int) -> None:
        wanted = self._resources[cell.network.name]
        task = self._task.options(
            num_cpus=wanted.cpus, num_gpus=wanted.gpus, memory=wanted.memory * 1e9 or None, name=f"{cell.network.name} {cell.setting.label}"
        )
        where = wanted.threads, "cuda" if wanted.gpus else "cpu"
        ref = task.remote(key, cell, self._files, self._run, *where, self._board if wanted.observers > 1 else None, wanted.observers)
        self._under_way[ref] = key, cell, deaths

    def results(self) -> Iterator[Outcome]:
        """Of the cells that ended; none if none does for a while, so that nodes that came meanwhile get theirs."""
        ended, _ = self._ray.wait(list(self._under_way), timeout=LOOK, fetch_local=False)
        if ended:
            ended, _ = self._ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=0, fetch_local=False)
        for ref in ended:
            key, cell, deaths = self._under_way.pop(ref)
            outcome = self._outcome(ref, key)
            if outcome is not None:
                yield outcome
            elif deaths + 1 < MAX_DEATHS:
                self._start(key, cell, deaths + 1)
            else:
                yield Outcome(key, reason=f"the worker process died, {MAX_DEATHS} times")

    def _outcome(self, ref: Any, key: str) -> Outcome | None:
        """None where the process or its node died."""
        errors = self._ray.exceptions
        try:
            outcome, warned = self._ray.get(ref)
            for text in warned:
                warnings.warn(text, OverqWarning, stacklevel=2)
            return outcome
        except errors.OutOfMemoryError:
            return Outcome(key, reason="out of memory")
        except errors.RayTaskError as error:  # before or after the cell itself: overq is not there, or another version, or the disk is full
            return Outcome(key, reason=" ".join(str(error.cause or error).split())[-300:])
        except errors.RayError:
            return None

    def close(self) -> None:
        self._ray.shutdown()
        if self._folder is not None:
            self._folder.cleanup()


class _Remote:
    """The head's disk, for nodes: an actor behind the interface `node.Files`."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def manifest(self, paths: tuple[str, ...]) -> list[list[tuple[str, int]]]:
        return _get(self._actor.manifest.remote(paths))

    def read(self, path: str, start: int, size: int) -> bytes:
        return _get(self._actor.read.remote(path, start, size))


class _RemoteBoard:
    """A board on the head's disk, for nodes: an actor behind the interface `board.Board`."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def take(self, name: str) -> bool:
        return bool(_get(self._actor.take.remote(name)))

    def renew(self, name: str) -> None:
        _get(self._actor.renew.remote(name))

    def drop(self, name: str) -> None:
        _get(self._actor.drop.remote(name))

    def add(self, name: str, token: str, start: int, content: bytes) -> None:
        _get(self._actor.add.remote(name, token, start, content))

    def complete(self, name: str, token: str) -> None:
        _get(self._actor.complete.remote(name, token))

    def size(self, name: str) -> int | None:
        return _get(self._actor.size.remote(name))

    def read(self, name: str, start: int, size: int) -> bytes:
        return _get(self._actor.read.remote(name, start, size))


def _get(ref: Any) -> Any:
    import ray

    return ray.get(ref)


def _connected(address: str | None, cpus: int) -> Any:
    """The module `ray`, after its start."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ToolError("--engine ray needs ray, which is not installed: pip install 'overq[ray]'") from error
    if address is not None and "://" in address:
        raise ToolError(f"--address {address}: the head must run on a machine of the cluster; write its HOST:PORT, or auto there")
    own: dict[str, Any] = {"num_cpus": cpus, "object_store_memory": OBJECTS, "include_dashboard": False}
    try:
        ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False, **({} if address else own))
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        if "path length" in said:  # of the sockets in its temporary folder
            raise ToolError(f"Ray does not start; set RAY_TMPDIR to a folder of a shorter path: {said}") from error
        raise ToolError(f"--address {address}: no Ray cluster: {said}" if address else f"Ray does not start: {said}") from error
    return ray
