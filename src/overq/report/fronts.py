"""Fronts: whether OverQ is better than everything that costs no more, and by how much.

The rival of a setting is chosen on each network, with hindsight, as the one whose class scores are nearest to float's; ours is the
same setting on all networks. So a mean over networks is not in our favour.
"""

from __future__ import annotations

from typing import Any

from overq.errors import InputError
from overq.records import Record
from overq.report.means import gained

OURS = ("overq", "overq_recipe")  # families, see `Record.method`
SLACK = 1e-9


def fronts(found: list[Record], ours: list[dict[str, Any]], cost: str, network: str = "network") -> tuple[list[list[str]], list[Record]]:
    """(head and rows of the table, the records compared).

    ours  settings of OverQ, each {head, label} and, where the others shall not have it either, {without}: a part of their labels
    cost  a field of `Record` that is a number: bits, area, …
    """
    lines = [[network, "OverQ", cost, "dB", f"best of the others, no more {cost}", cost, "dB", "dB more", "points more"]]
    used: list[Record] = []
    for setting in ours:
        pairs = []
        for name in dict.fromkeys(record.network for record in found):
            own = next((r for r in found if (r.network, r.label) == (name, setting["label"])), None)
            if own is None or _cost(own, cost) is None or own.sqnr is None:
                continue
            other = best_other(found, own, cost, setting.get("without", ""))
            if other is None:
                continue
            pairs.append((own, other))
            lines.append([name, str(setting["head"]), *_own(own, cost), f"`{other.label}`", *_own(other, cost), *_gain([(own, other)])])
        if len(pairs) > 1:
            lines.append(["**mean**", str(setting["head"]), "", "", "", "", "", *_gain(pairs)])
        used += [record for pair in pairs for record in pair]
    return lines, used


def best_other(found: list[Record], own: Record, cost: str, without: str = "") -> Record | None:
    """Of the network's settings that are not OverQ and cost no more, none with `without` in its label: the one nearest to float."""
    limit = _cost(own, cost)
    assert limit is not None  # the caller looked
    others = [
        r for r in found
        if r.network == own.network and r.method not in (*OURS, "float") and r.weight_bits == own.weight_bits and r.sqnr is not None
        and not (without and without in r.label) and (value := _cost(r, cost)) is not None and value <= limit + SLACK
    ]  # fmt: skip
    return max(others, key=lambda r: r.sqnr or 0.0, default=None)


def _cost(record: Record, cost: str) -> float | None:
    if not isinstance(value := getattr(record, cost, ""), int | float | None):
        raise InputError(f"a record has no cost {cost!r}")
    return value


def _own(record: Record, cost: str) -> list[str]:
    return [f"{_cost(record, cost):.4g}", f"{record.sqnr:.1f}"]


def _gain(pairs: list[tuple[Record, Record]]) -> list[str]:
    more = sum((own.sqnr or 0.0) - (other.sqnr or 0.0) for own, other in pairs) / len(pairs)
    difference, low, high = gained(pairs)
    return [f"{more:+.1f}", f"{difference:+.2f} [{low:+.2f}, {high:+.2f}]"]
