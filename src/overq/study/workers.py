"""Who runs cells: one narrow interface, and local worker processes behind it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from overq.study.cell import Cell
from overq.text import visible


@dataclass(frozen=True)
class Outcome:
    """Of one cell: a value, or the reason why there is none."""

    key: str
    value: Any = None
    reason: str | None = None


class Executor(Protocol):
    """What a distributed engine has to offer to take the local workers' place."""

    @property
    def slots(self) -> int:
        """Cells that may be under way at once; may change."""

    def submit(self, key: str, cell: Cell) -> None:
        """Start a cell; at most `slots` are under way."""

    def results(self) -> Iterator[Outcome]:
        """Wait for cells that ended, one way or another."""

    def close(self) -> None:
        """Stop everything."""


class LocalWorkers:
    """`count` spawned processes, each with its share of `threads`; one that dies is replaced, and its cell gets the reason.

    observers  network -> pieces into which its calibration is cut; where there are several, processes share them
    """

    def __init__(self, count: int, threads: int, observers: Mapping[str, int] | None = None) -> None:
        self._count, self._threads = count, max(1, threads // count)
        self._folder = tempfile.TemporaryDirectory(prefix="overq-") if observers and max(observers.values()) > 1 else None
        self._observers = dict(observers or {})
        self._context = multiprocessing.get_context("spawn")
        self._idle = [self._start() for _ in range(count)]
        self._busy: dict[Connection, tuple[Any, str]] = {}

    def _start(self) -> tuple[Connection, Any]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, self._threads, self._folder and self._folder.name, self._observers), daemon=True
        )
        with _no_interrupt():
            process.start()
        theirs.close()
        return ours, process

    @property
    def slots(self) -> int:
        return self._count

    def submit(self, key: str, cell: Cell) -> None:
        pipe, process = self._idle.pop()
        self._busy[pipe] = process, key
        with suppress(OSError):  # it died while idle: `results` sees the closed pipe
            pipe.send((key, cell))

    def results(self) -> Iterator[Outcome]:
        for pipe in wait(list(self._busy)):
            assert isinstance(pipe, Connection)
            process, key = self._busy.pop(pipe)
            try:
                outcome = pipe.recv()
                self._idle.append((pipe, process))
            except (EOFError, OSError):
                process.join()
                pipe.close()
                outcome = Outcome(key, reason=f"the worker process died (exit code {process.exitcode})")
                self._idle.append(self._start())
            yield outcome

    def close(self) -> None:
        for pipe, process in [*self._idle, *((pipe, process) for pipe, (process, _) in self._busy.items())]:
            process.kill()
            process.join()
            pipe.close()
        if self._folder:
            self._folder.cleanup()


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """What starts here never hears of Ctrl-C: its parent does, and ends it. For the parent it comes when the block ends."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, threads: int, folder: str | None, observers: Mapping[str, int]) -> None:
    """A worker's life: it ends when its parent does, whatever it is at. folder: where workers share calibrations."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    ready(threads)
    from overq.study.board import FolderBoard
    from overq.study.evaluate import evaluate, sharing

    board = None if folder is None else FolderBoard(Path(folder))
    while True:
        try:
            key, cell = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            with sharing(board, observers.get(cell.network.name, 1)):
                pipe.send(outcome_of(key, cell, evaluate))
        except OSError:
            return


def _end_with_parent() -> None:
    """A closed pipe is noticed between cells only, and a cell may take long."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def ready(threads: int) -> None:
    """Make this process one that runs cells."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.formatwarning = lambda message, *_, **__: f"overq: warning: {visible(message)}\n"  # as the command line says it
    import torch

    torch.set_num_threads(threads)


def outcome_of(key: str, cell: Cell, evaluate: Callable[[str, Cell], Any]) -> Outcome:
    """A cell's value, or in one line why there is none."""
    try:
        return Outcome(key, evaluate(key, cell))
    except MemoryError:
        return Outcome(key, reason="out of memory")
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        return Outcome(key, reason="out of memory" if "can't allocate memory" in text else f"{type(error).__name__}: {text}")
