"""The answer in plain words: which format to take on a network, what it stores, what it loses, and what plain needs for the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

import numpy as np

from overq.compare import Paired, paired
from overq.records import Record
from overq.report.names import FLOAT, OURS, PLAIN, words

LOSSES = (0.5, 1.0, 2.0, 5.0)  # points of top-1 that a reader may be ready to lose
MORE = (1.0, 2.0, 5.0, 10.0)  # or percent of perplexity that one may be ready to add
PERPLEXITY, RATIO = "perplexity", "ratio"  # of a language model; the latter is over the float network's


@dataclass(frozen=True)
class Group:
    """Settings of one network at one width of weights, on the same images. base: the float network; None where it was not run."""

    network: str
    weight_bits: int
    base: Record | None
    settings: tuple[Record, ...]

    @property
    def name(self) -> str:
        return f"{self.network}, {self.weight_bits}-bit weights"

    @property
    def text(self) -> bool:
        """Whether perplexity is what counts: of a language model, which has no top-1."""
        return self.base is not None and self.base.top1 is None and PERPLEXITY in self.base.own


@dataclass(frozen=True)
class Answer:
    """Of one group. headline: one or two sentences; reasons: more, one each; table: lines of loss, plain, OverQ, others; first a head."""

    group: Group
    headline: str
    reasons: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()


def groups(records: Iterable[Record]) -> list[Group]:
    """By network, then by width of weights; float stands in none of them."""
    found: dict[tuple[str, int], list[Record]] = {}
    floats: dict[str, Record] = {}
    for record in records:
        if record.method == FLOAT:
            floats[record.network] = record
        else:
            found.setdefault((record.network, record.weight_bits), []).append(record)
    return [Group(network, width, floats.get(network), tuple(mine)) for (network, width), mine in found.items()]


def loss(group: Group, record: Record) -> float | None:
    """Points of top-1 lost to float, or percent of perplexity added; None where either was not measured."""
    if group.text:
        return 100 * (record.own[RATIO] - 1) if RATIO in record.own else None
    return None if group.base is None or group.base.top1 is None or record.top1 is None else group.base.top1 - record.top1


def cheapest(group: Group, most: float, of: Callable[[Record], bool]) -> Record | None:
    """The setting of fewest stored bits that loses no more than `most`; of several the one that loses least."""
    fit = [(r.bits, lost, i, r) for i, r in enumerate(group.settings) if of(r) and (lost := loss(group, r)) is not None and lost <= most]
    return min(fit)[3] if fit else None


def is_plain(record: Record) -> bool:
    return record.method in PLAIN


def is_ours(record: Record) -> bool:
    return record.method in OURS


def answer(group: Group) -> Answer:
    """What the records of the group say; where they say nothing about top-1 or perplexity, that."""
    if group.base is None or (group.base.top1 is None and not group.text):
        why = "the float network was not run." if group.base is None else "neither top-1 nor perplexity was measured."
        return Answer(group, f"No answer: {why}")
    rows = []
    for most in MORE if group.text else LOSSES:
        found = [cheapest(group, most, of) for of in (is_plain, is_ours, lambda r: not is_plain(r) and not is_ours(r))]
        rows.append((_amount(group, most), *("none" if r is None else f"{_bits(r)}: {words(r)}" for r in found)))
    table = (("ready to lose", "plain", "OverQ", "another method"), *rows)
    return Answer(group, _headline(group), tuple(_reasons(group)), table)


def _headline(group: Group) -> str:
    for most in MORE[1:] if group.text else LOSSES[1:]:
        plain, ours = cheapest(group, most, is_plain), cheapest(group, most, is_ours)
        other = cheapest(group, most, lambda r: not is_plain(r) and not is_ours(r))
        if plain is None and ours is None:
            continue
        within = f"within {most:g} % of float's perplexity" if group.text else f"within {_points(most)} of float"
        if ours is None or (plain is not None and not _prefer(ours, plain)):
            assert plain is not None
            text = f"Take {words(plain)}: it stores {_bits(plain)} a value and {_lost(group, plain)}. "
            if ours is not None and ours.bits == plain.bits:
                text += f"OverQ needs as many stored bits to stay {within}: {words(ours)} {_lost(group, ours)}."
            elif ours is not None:
                text += f"OverQ needs {_bits(ours)} to stay {within} ({words(ours)})."
            else:
                text += f"No setting of OverQ that was tried stays {within}." if any(map(is_ours, group.settings)) else "OverQ was not run."
            best = plain
        else:
            text = f"Take {words(ours)}: it stores {_bits(ours)} a value and {_lost(group, ours)}. "
            best = ours
            if plain is not None and plain.bits == ours.bits:
                text += f"Plain quantization needs as many stored bits and {_lost(group, plain)} ({words(plain)}){_test(ours, plain)}."
            elif plain is not None:
                text += f"Plain quantization needs {_bits(plain)} to stay {within}."
            elif any(map(is_plain, group.settings)):
                text += f"No width of plain quantization that was tried stays {within}."
            else:
                text += "Plain quantization was not run."
        if other is not None and other.bits < best.bits:
            text += f" Fewer still: {words(other)}, {_bits(other)}, {_lost(group, other)}."
        return text
    return f"Take none of these: every setting that was tried loses more than {_amount(group, (MORE if group.text else LOSSES)[-1])}."


def _prefer(ours: Record, plain: Record) -> bool:
    """Fewer stored bits; with as many, only what is better beyond chance: plain is simpler."""
    compared = against(plain, ours) if ours.bits == plain.bits else None
    return ours.bits < plain.bits or (compared is not None and compared.low > 0)


def _reasons(group: Group) -> Iterable[str]:
    assert group.base is not None
    if group.text:
        yield f"The float network has a perplexity of {group.base.own[PERPLEXITY]:.2f} on {group.base.images:,} windows of text."
        return
    yield f"Float gives {group.base.top1:.2f} % on {group.base.images:,} images."
    half = [(r.high - r.low) / 2 for r in group.settings if r.low is not None and r.high is not None]
    if half:
        yield f"On these images a difference to float of less than about {_points(round(median(half), 1))} cannot be told from chance."
    ours = [r for r in group.settings if is_ours(r) and r.top1 is not None]
    pairs = []
    for r in ours:
        rivals = [p for p in group.settings if is_plain(p) and p.bits <= r.bits and p.top1 is not None]
        if rivals:
            pairs.append((r, max(rivals, key=lambda p: (p.top1 or 0.0, -p.bits))))
    for width in sorted({r.bits for r, _ in pairs})[:3]:
        mine, plain = max(((r, p) for r, p in pairs if r.bits == width), key=lambda pair: pair[0].top1 or 0.0)
        rival = f"the best plain {plain.top1:.2f} % ({words(plain)}){_test(mine, plain)}"
        yield f"At {_bits(mine)} stored: {words(mine)} {mine.top1:.2f} %, {rival}."
    for name, title in (("multiplier", "as small a multiplier"), ("area", "as small an element")):
        yield from _by_cost(group, name, title)


def _by_cost(group: Group, cost: str, title: str) -> Iterable[str]:
    """The best of ours and of plain that a multiplier or an element of our best small setting allows."""
    known = [r for r in group.settings if getattr(r, cost) is not None and r.top1 is not None]
    ours, plain = [r for r in known if is_ours(r)], [r for r in known if is_plain(r)]
    if not ours or not plain:
        return
    least = min(getattr(r, cost) for r in ours)
    mine = max((r for r in ours if getattr(r, cost) == least), key=lambda r: r.top1 or 0.0)
    rivals = [r for r in plain if getattr(r, cost) <= least]
    if rivals:
        best = max(rivals, key=lambda r: r.top1 or 0.0)
        yield f"With {title}: {words(mine)} {mine.top1:.2f} %, plain {best.top1:.2f} % ({words(best)}){_test(mine, best)}."


def _test(mine: Record, plain: Record) -> str:
    """The paired difference and whether it can be chance; "" where the records do not say which images were right."""
    compared = against(plain, mine)
    if compared is None:
        return ""
    clear = "beyond chance" if compared.low > 0 or compared.high < 0 else "not beyond chance"
    return f"; difference {compared.difference:+.2f} points, 95 % interval {compared.low:+.2f} to {compared.high:+.2f}, {clear}"


def against(base: Record, record: Record) -> Paired | None:
    """The record against another on the same images; None where they do not say which images were right."""
    if not base.right or not record.right or base.images != record.images or base.network != record.network:
        return None
    a, b = (np.unpackbits(np.frombuffer(bytes.fromhex(r.right), np.uint8), count=r.images).astype(bool) for r in (base, record))
    return paired(a, b)


def _bits(record: Record) -> str:
    return f"{record.bits:.3g} bit{'s' * (record.bits != 1)}"


def _amount(group: Group, number: float) -> str:
    return f"{number:g} % of perplexity" if group.text else _points(number)


def _points(number: float) -> str:
    return f"{number:g} point{'s' * (number != 1)}"


def _lost(group: Group, record: Record) -> str:
    lost = loss(group, record)
    assert lost is not None
    if group.text:
        said = f"has {lost:.1f} % more perplexity than float" if lost >= 0 else f"has {-lost:.1f} % less perplexity than float"
        low, high = (record.own.get(f"{RATIO}_{side}") for side in ("low", "high"))
        return said if low is None or high is None else f"{said} ({100 * low - 100:.1f} to {100 * high - 100:.1f} with 95 % confidence)"
    said = f"loses {_points(round(lost, 1))}" if lost >= 0.05 else "loses nothing" if lost > -0.05 else f"gains {_points(round(-lost, 1))}"
    if record.low is None or record.high is None:
        return said
    best, worst = (round(-edge, 1) + 0.0 for edge in (record.high, record.low))  # no -0.0
    return f"{said} ({best:.1f} to {worst:.1f} with 95 % confidence)"
