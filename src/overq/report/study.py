"""Which settings of a study are on the Pareto front of accuracy against cost, and where OverQ stands."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from overq.records import Record

OURS = ("overq", "overq_recipe")


def accuracy(record: Record) -> float:
    """Top-1 in percent; below all others where it was not measured."""
    return -inf if record.top1 is None else record.top1


def front(results: list[Record], cost: str = "bits") -> list[Record]:
    """Those that no other beats: cheapest first, each more accurate than all that cost no more."""
    best: list[Record] = []
    for result in sorted(results, key=lambda r: (getattr(r, cost), -accuracy(r))):
        if not best or accuracy(result) > accuracy(best[-1]):
            best.append(result)
    return best


def verdict(results: list[Record], cost: str = "bits", name: Callable[[Record], str] = lambda record: record.label) -> str:
    """Where OverQ stands, in one sentence. name: what it calls a setting."""
    ours = [r for r in results if r.method in OURS]
    if not ours:
        return "OverQ was not run"
    names = [name(r) for r in front(results, cost) if r in ours]
    if names:
        return f"OverQ is on the front: {', '.join(names)}"
    best = max(ours, key=lambda r: (accuracy(r), -getattr(r, cost)))
    beaten = max((r for r in results if getattr(r, cost) <= getattr(best, cost)), key=lambda r: (accuracy(r), r not in ours))
    for_no_more = f"{name(beaten)} gives {accuracy(beaten):.2f} for no more"
    return f"OverQ is NOT on the front: its best, {name(best)}, gives {accuracy(best):.2f}, {for_no_more}"
