"""Several runs of one model side by side, layer by layer: all wait at a layer until each has come to it or ended.

What a layer's outputs are over all runs is then known before any run goes on, so that one pass is enough where each layer must be changed
by the outputs of all samples, in the model whose layers before it are changed already. Only tensors still in use are held, as in any run.
Runs are threads that take turns, one at a time: the order of all arithmetic is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from threading import Semaphore, Thread, get_ident
from typing import Any

import torch
from torch import nn

Meet = Callable[[nn.Module, list[torch.Tensor]], list[torch.Tensor]]


@dataclass
class _Run:
    """One run: where it waits, with what output, and what it goes on with."""

    turn: Semaphore = field(default_factory=lambda: Semaphore(0))
    layer: nn.Module | None = None
    output: Any = None
    error: BaseException | None = None
    stop: bool = False


class _Stopped(BaseException):
    """Ends a run after another one failed."""


def lockstep(runs: Sequence[Callable[[], Any]], layers: Sequence[nn.Module], meet: Meet) -> None:
    """Do all `runs` at once. At each of `layers`, in their order, `meet(layer, outputs)` gets the outputs of all runs that are there,
    in the order of the runs, and gives what they go on with. The first error of any run is raised when all have ended."""
    if len(runs) == 1:
        with _hooked(layers, lambda layer, y: meet(layer, [y])[0]):
            runs[0]()
        return
    place = {layer: i for i, layer in enumerate(layers)}
    states, by_thread, back = [_Run() for _ in runs], dict[int, _Run](), Semaphore(0)

    def wait(layer: nn.Module, y: torch.Tensor) -> Any:
        state = by_thread[get_ident()]
        state.layer, state.output = layer, y
        back.release()
        state.turn.acquire()
        if state.stop:
            raise _Stopped
        return state.output

    def work(state: _Run, run: Callable[[], Any]) -> None:
        by_thread[get_ident()] = state
        state.turn.acquire()
        try:
            if not state.stop:
                run()
        except BaseException as error:
            state.error = error
        state.layer = state.output = None
        back.release()

    def go(state: _Run) -> None:
        state.layer = None
        state.turn.release()
        back.acquire()

    threads = [Thread(target=copy_context().run, args=(work, s, r), daemon=True) for s, r in zip(states, runs, strict=True)]
    for thread in threads:
        thread.start()
    with _hooked(layers, wait):
        try:
            for state in states:
                go(state)
            while waiting := [s for s in states if s.layer is not None]:
                if any(s.error for s in states):
                    break
                layer = min((s.layer for s in waiting if s.layer is not None), key=place.__getitem__)
                there = [s for s in waiting if s.layer is layer]
                for state, y in zip(there, meet(layer, [s.output for s in there]), strict=True):
                    state.output = y
                for state in there:
                    go(state)
        finally:
            for state in states:
                state.stop = True
                state.turn.release()
            for thread in threads:
                thread.join()
    for state in states:
        if state.error is not None and not isinstance(state.error, _Stopped):
            raise state.error


@contextmanager
def _hooked(layers: Sequence[nn.Module], replace: Callable[[nn.Module, torch.Tensor], Any]) -> Iterator[None]:
    """Within the block, `replace(layer, output)` stands for the output of each of the layers, before hooks of the model's own."""
    handles = [layer.register_forward_hook(lambda m, args, y: replace(m, y), prepend=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
