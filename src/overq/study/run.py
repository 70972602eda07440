"""Run what a store still lacks of a study: claim, hand to the executor, record. Safe to stop anywhere and to start twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from overq.errors import InputError
from overq.study.cell import Cell
from overq.study.store import Store
from overq.study.workers import Executor, Outcome


@dataclass
class Tally:
    """What happened: cells done and failed in this run, and results that could not be written."""

    done: int = 0
    failed: int = 0
    unwritten: int = 0


def run(store: Store, cells: Iterable[Cell], executor: Executor, progress: Callable[[Tally], None] = lambda tally: None) -> Tally:
    """Run every one of `cells` that is pending. One that fails is marked, the rest goes on.

    What runs is the study's own cells: the store only says which are left, so nothing that stands in it is ever imported or opened.
    """
    wanted, tally, under_way = {cell.key: cell for cell in cells}, Tally(), 0
    keys = set(wanted)
    store.free_dead()
    try:
        with store.alive():
            while True:
                while under_way < executor.slots and (key := _claim(store, keys, under_way)) is not None:
                    executor.submit(key, wanted[key])
                    under_way += 1
                if not under_way:
                    return tally
                for outcome in executor.results():
                    under_way -= 1
                    _record(store, outcome, tally)
                    progress(tally)
    finally:
        executor.close()


def _claim(store: Store, wanted: set[str], under_way: int) -> str | None:
    """The next cell. On a disk without room for a claim, what is under way comes in first."""
    try:
        key = store.claim(wanted)
        return store.claim(wanted) if key is None and store.free_dead() else key
    except InputError:
        if not under_way:
            raise
        return None


def _record(store: Store, outcome: Outcome, tally: Tally) -> None:
    reason = outcome.reason
    if reason is None:
        try:
            tally.done += store.finish(outcome.key, *outcome.value)
            return
        except InputError as error:  # a full disk, most likely
            reason = f"the result could not be written: {error}"
            tally.unwritten += 1
    tally.failed += 1
    # If not even that fits, the cell stays with this process and is pending again once it ends.
    with suppress(InputError):
        store.fail(outcome.key, reason)
