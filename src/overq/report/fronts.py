"""Fronts: whether OverQ is better than everything that costs no more, and by how much.

The rival of a setting is chosen on each network, with hindsight, as the one whose class scores are nearest to float's; ours is the
same setting on all networks. So a mean over networks is not in our favour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from overq.errors import InputError
from overq.records import Record
from overq.report.means import gained, nearer, spelled
from overq.report.names import OURS, family, parameters

SLACK = 1e-9
Pair = tuple[Record, Record]  # ours, and the best of the others


def fronts(
    found: list[Record], ours: list[dict[str, Any]], cost: str, names: Mapping[str, str] | None = None
) -> tuple[list[list[str]], list[Record]]:
    """(head and rows of the table, the records compared). One row a setting: the mean over the networks first, then each network.

    ours   settings of OverQ, each {head, label} and, where the others shall not have it either, {without}: a part of their labels
    cost   a field of `Record` that is a number: bits, area, …
    names  what a network is called
    """
    networks = list(dict.fromkeys(record.network for record in found))
    pairs = [_pairs(found, setting, cost) for setting in ours]
    networks = [name for name in networks if any(name in each for each in pairs)]
    heads = [(names or {}).get(name, name) for name in networks]
    called = cost.replace("bit_cycles", "bits × cycles").replace("_", " ")
    lines = [["OverQ", called, "dB", "best of the others, dB", "dB more", "points more", "on it", *heads]]
    for setting, each in zip(ours, pairs, strict=True):
        if each:
            own, others = zip(*each.values(), strict=True)
            means = [f"{sum(r.sqnr or 0.0 for r in side) / len(side):.1f}" for side in (own, others)]
            on_it = sum((a.sqnr or 0.0) > (b.sqnr or 0.0) for a, b in each.values())
            gain = gained(list(each.values())) if all(r.right for pair in each.values() for r in pair) else None
            start = [str(setting["head"]), _costs(own, cost), *means, _decibels(list(each.values())), spelled(gain, 2)]
            cells = [f"{_decibels([each[name]])} {_short(each[name][1])}" if name in each else "" for name in networks]
            lines.append([*start, f"{on_it} of {len(each)}", *cells])
    return lines, [record for each in pairs for pair in each.values() for record in pair]


def _pairs(found: list[Record], setting: dict[str, Any], cost: str) -> dict[str, Pair]:
    """Network -> the setting and the best of the others there."""
    pairs = {}
    for own in found:
        if own.label == setting["label"] and _cost(own, cost) is not None and own.sqnr is not None:
            other = best_other(found, own, cost, setting.get("without", ""))
            if other is not None:
                pairs[own.network] = own, other
    return pairs


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


def _costs(records: Iterable[Record], cost: str) -> str:
    """The cost, or the least and the greatest where it differs by network."""
    values = sorted(value for record in records if (value := _cost(record, cost)) is not None)
    texts = [f"{value:.4g}" if value < 1000 else f"{value:,.0f}" for value in (values[0], values[-1])]
    return " – ".join(dict.fromkeys(texts))


def _short(record: Record) -> str:
    """The method and its digits: "high precision A3"."""
    bits = parameters(record.label).get("bits")
    return f"{family(record)} A{bits}" if bits else record.label


def _decibels(pairs: list[Pair]) -> str:
    """By how many dB ours is ahead; with the interval where the records tell."""
    more = sum((own.sqnr or 0.0) - (other.sqnr or 0.0) for own, other in pairs) / len(pairs)
    return spelled(nearer(pairs), 1) or f"{more:+.1f}"
