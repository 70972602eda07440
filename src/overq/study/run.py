"""Run what a store still lacks of a study: claim, hand to the executor, record. Safe to stop anywhere and to start twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
                for key in _claim(store, keys, executor.slots - under_way, under_way):
                    executor.submit(key, wanted[key])
                    under_way += 1
                if not under_way:
                    return tally
                outcomes = list(executor.results())
                under_way -= len(outcomes)
                _record(store, outcomes, tally)
                progress(tally)
    finally:
        executor.close()


def _claim(store: Store, wanted: set[str], count: int, under_way: int) -> list[str]:
    """The next cells. On a disk without room for a claim, what is under way comes in first."""
    if count <= 0:
        return []
    try:
        return store.claim(wanted, count) or (store.claim(wanted, count) if store.free_dead() else [])
    except InputError:
        if not under_way:
            raise
        return []


def _record(store: Store, outcomes: Sequence[Outcome], tally: Tally) -> None:
    """Write the results of one wait in one go; where that fails, one by one."""
    values = {outcome.key: outcome.value for outcome in outcomes if outcome.reason is None}
    failed = {outcome.key: outcome.reason for outcome in outcomes if outcome.reason is not None}
    try:
        tally.done += store.finish(values)
    except InputError:
        for key, value in values.items():
            try:
                tally.done += store.finish({key: value})
            except InputError as error:  # a full disk, most likely
                failed[key] = f"the result could not be written: {error}"
                tally.unwritten += 1
    for key, reason in failed.items():
        tally.failed += 1
        # If not even that fits, the cell stays with this process and is pending again once it ends.
        with suppress(InputError):
            store.fail(key, reason)
