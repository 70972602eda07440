"""The charts of accuracy against cost as files, from the specifications that the page draws."""

from __future__ import annotations

import re
from collections.abc import Iterable

from overq.records import Record
from overq.report import vega
from overq.report.answer import groups
from overq.report.html import charts, rows


def files(records: Iterable[Record], kinds: tuple[str, ...] = ("png", "svg")) -> dict[str, bytes]:
    """Name of a file -> its content: every measure against every cost for every network and width of weights."""
    records = tuple(records)
    made: dict[str, bytes] = {}
    for group in groups(records):
        for chart in charts(group.settings):
            spec = drawn(records, group.network, group.weight_bits, chart["spec"])
            name = re.sub(r"[^\w.-]+", "_", f"{group.network}-W{group.weight_bits}-{chart['title'].partition(' (')[0]}-{chart['cost']}")
            made |= {f"{name}.{kind}": vega.picture(spec, kind) for kind in kinds}
    return made


def drawn(records: tuple[Record, ...], network: str, weight_bits: int, spec: vega.Spec, note: str = "") -> vega.Spec:
    """The specification with the records inside, for one network and width of weights."""
    settings = rows(records)
    kept = [row for row in settings if row["kind"] != "float"]
    floats = [row for row in settings if row["kind"] == "float"]
    images = next(r.images for r in records if r.network == network)
    title = f"{network}, W{weight_bits}, {images} images{note}"
    return vega.filled(spec, {"settings": kept, "floats": floats}, {"network": network, "weights": weight_bits}, title)
