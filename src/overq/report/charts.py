"""Pictures of an evaluation and of a study, composed of the page's own charts."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

from overq.records import Evaluation, Record
from overq.report import render, vega
from overq.report.answer import Group, groups
from overq.report.contents import of_evaluation
from overq.report.html import cascades, charts, ranked_layers, rows
from overq.report.names import words
from overq.report.study import verdict
from overq.report.vega import Spec
from overq.text import visible


def files(records: Iterable[Record], kinds: tuple[str, ...] = ("png", "svg")) -> dict[str, bytes]:
    """Name of a file -> its content: every measure against every cost for every network and width of weights."""
    records = tuple(records)
    made: dict[str, bytes] = {}
    for group in groups(records):
        for chart in charts(group.settings):
            spec = front(records, group, chart["spec"])
            parts = group.network, f"W{group.weight_bits}", chart["title"].partition(" (")[0], chart["cost"]
            name = re.sub(r"[^\w.-]+", "_", "-".join(parts))
            made |= {f"{name}.{kind}": render.picture(spec, kind) for kind in kinds}
    return made


def front(records: Iterable[Record], group: Group, spec: Spec, more: Iterable[str] = (), width: int = 560) -> Spec:
    """The chart of one group. more: lines below its title."""
    settings = rows(records)
    data = {
        "settings": [row for row in settings if row["kind"] != "float"],
        "floats": [row for row in settings if row["kind"] == "float"],
    }
    title = f"{group.network}, W{group.weight_bits}, {group.settings[0].images:,} images"
    chosen = {"network": visible(group.network), "weights": group.weight_bits}
    return render.still(spec, data, chosen, [visible(title), *more], width)


def study(records: Iterable[Record], cost: str, more: Iterable[str] = ()) -> Spec:
    """Top-1 against the cost with the front, a panel for each network and width of weights, above it what it says of OverQ."""
    records = tuple(records)
    known = [r for r in records if r.method != "float" and r.top1 is not None and getattr(r, cost) is not None]
    panels = []
    for group in sorted(groups(known), key=lambda g: (g.network, g.weight_bits)):
        (chart,) = (each for each in charts(group.settings) if (each["measure"], each["cost"]) == ("top1", cost))
        panels.append(front(records, group, chart["spec"], textwrap.wrap(visible(verdict(list(group.settings), cost, words)), 90)))
    return render.beside(panels, [f"Top-1 against {vega.COSTS[cost]}", *more], columns=2)


def evaluation(result: Evaluation) -> Spec:
    """Three panels: top-1 against stored bits, top-1 against the cascade factor, outliers served against theory."""
    contents = of_evaluation(result)
    panels = [
        front(contents.records, group, next(c["spec"] for c in charts(group.settings) if c["measure"] == "top1"), width=420)
        for group in groups(contents.records)
    ]
    if lines := cascades(contents.records):  # of one network
        panels.append(render.still(vega.against_cascade(), {"cascades": lines}, title=["What a longer cascade gives"], width=320))
    if layers := ranked_layers(contents):
        _, label, found = layers[0]
        name = next((words(r) for r in contents.records if r.label == label), label)
        covered = [{"coverage": x.coverage, "expected": x.expected_coverage} for x in found if x.coverage is not None]
        title = ["Outliers served, a point for each layer", visible(name)]
        panels.append(render.still(vega.theory(), {"covered": covered}, title=title, width=300))
    return render.beside(panels, [visible(f"{result.model} on {result.data}, calibration {result.calibration}")])
