"""What a command shows while it works: a bar with the time left, or a word for a silent wait. On standard error, and only to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A function to call with (what, done, to do). A new number to do, or done fewer than before, begins a new bar."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from overq.text import console, visible

    screen = console(stderr=True)
    words = TextColumn("{task.description:32}", markup=False), BarColumn(), TextColumn("{task.percentage:3.0f} %")
    columns = *words, TimeElapsedColumn(), TimeRemainingColumn()
    live = Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)
    with redirect_stdout(sys.stderr), live as bar:  # what the network's own code prints is no result
        shown: list[Any] = []

        def update(what: str, done: int, total: int) -> None:
            new = not shown or (bar.tasks[-1].total, done < bar.tasks[-1].completed) != (total, False)
            if new:
                for task in shown:
                    bar.update(task, visible=False)
                shown.append(bar.add_task("", total=total))
            bar.update(shown[-1], description=visible(what), completed=done, refresh=new)

        yield update


@contextmanager
def waiting(what: str, told: bool = True) -> Iterator[None]:
    """Say what a silent wait is for: a spinner on a terminal, elsewhere one line where that is to be told."""
    from overq.text import console

    screen = console(stderr=True)
    if screen.is_terminal:
        with screen.status(what):
            yield
    else:
        if told:
            print(f"overq: {what}", file=sys.stderr)
        yield


def prepare_kernels(device: str) -> None:
    """Compile them now if they are not cached, so that no result's time holds it."""
    from overq import kernels

    kind = device.partition(":")[0]
    if not kernels.prepared(kind):
        with waiting("compiling the kernels for this machine, once: 5 to 10 seconds"):
            kernels.prepare(kind)
    else:
        kernels.prepare(kind)
