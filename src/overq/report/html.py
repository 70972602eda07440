"""The report: one HTML file that needs nothing else, neither a server nor a network.

Nothing of others' making is ever part of the markup: the records travel as JSON in which `<` is spelled out, and the page's script
writes them as text. A content security policy forbids the page to load or send anything.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

from overq.records import LayerCoverage, Record
from overq.report import render, vega
from overq.report.answer import Answer, answer, groups
from overq.report.contents import Contents
from overq.report.names import FLOAT, OURS, PLAIN, family, words
from overq.text import visible

LAYER_ROOM = 1_200_000  # characters of the page that layers may take
LOWER = ("perplexity", "kl", "ratio")  # measures of which less is better
CASCADE = re.compile(r" c(\d+)(?=[ ,]|$)")  # in a setting's words
LANES = 4  # of a layer that the explorer can show
FIELDS = (
    "label",
    "method",
    "images",
    "top1",
    "difference",
    "low",
    "high",
    "bits",
    "payload_bits",
    "metadata_bits",
    "multiplier",
    "area",
    "array_area",
    "cycles",
    "sqnr",
    "coverage",
    "expected_coverage",
    "zero_rate",
    "outlier_rate",
    "seconds",
    "code",
    "commit",
)
FLOORS = (2.0, 5.0, 10.0, 20.0)  # points below float down to which a chart may be drawn


def page(contents: Contents) -> str:
    """The whole file. ToolError where vl-convert is not installed."""
    answers = [answer(group) for group in groups(contents.records)]
    layers, left_out = _layers(contents)
    data = {
        "title": visible(contents.title),
        "settings": rows(contents.records),
        "groups": [_answer(each) for each in answers],
        "charts": charts(contents.records),
        "layers": layers,
        "inputs": [_inputs(network, inputs) for network, inputs in contents.inputs],
        "cycles": None if contents.cycles is None else {"title": visible(contents.cycles.title), "rows": list(contents.cycles.rows)},
        "own": [visible(name) for name in own_names(contents.records)],
        "cascades": cascades(contents.records),
        "missing": [[visible(text) for text in (m.network, m.label, m.state, m.reason)] + [m.count] for m in contents.missing],
        "left_out": [visible(line) for line in (*contents.left_out, *left_out)],
        "commands": list(contents.commands),
        "versions": [[visible(part) for part in pair] for pair in contents.versions],
        "facts": [[visible(part) for part in pair] for pair in contents.facts],
        "themes": {"light": render.theme(), "dark": render.theme(dark=True)},
        "specs": {
            "layers": vega.layers(),
            "theory": vega.theory(),
            "histogram": vega.histogram(),
            "cycles": vega.cycles(),
            "cascade": vega.against_cascade(),
        },
        "example": json.loads(part("vectors.json")),
    }
    template = part("page.html")
    scripts = ("rules.js", "explorer.js", "tables.js", "page.js")
    filled = {
        "TITLE": html.escape(visible(contents.title)),
        "STYLE": part("page.css") + part("explorer.css"),
        "DATA": safe_json(data),
        "VEGA": inline(render.script()),
        "SCRIPT": "\n".join(inline(part(name)) for name in scripts),
    }
    for name, text in filled.items():
        template = template.replace(f"<!--{name}-->", text, 1)
    return template


def safe_json(data: Any) -> str:
    """JSON for a script element: no `<` and `&` in it, so nothing in it can end the element. Numbers that are none become null."""
    text = json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def inline(script: str) -> str:
    """A script of ours or a library's as it may stand inside a script element."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


@cache
def part(name: str) -> str:
    """A file of the folder web."""
    return resources.files("overq.report").joinpath("web", name).read_text(encoding="utf-8")


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    if isinstance(data, float):
        return float(f"{data:.6g}") if math.isfinite(data) else None
    return data


def rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Settings as the page and its charts have them; float is one, too."""
    records = tuple(records)
    base = {r.network: r.top1 for r in reversed(records) if r.method == FLOAT}
    own = own_names(records)
    return [_row(record, base.get(record.network), own) for record in records]


def _row(record: Record, base: float | None, own: list[str]) -> dict[str, Any]:
    name = words(record)
    row = {key: visible(value) if isinstance(value := getattr(record, key), str) else value for key in FIELDS}
    ours = "float" if record.method == FLOAT else "plain" if record.method in PLAIN else "ours" if record.method in OURS else "other"
    return {
        **row,
        "network": visible(record.network),
        "weight_bits": record.weight_bits,
        "family": family(record),
        "kind": ours,
        "base": base,
        "name": name,
        "short": name.partition(",")[0].removeprefix("plain ").removeprefix("OverQ "),
        **{f"own{i}": record.own.get(name) for i, name in enumerate(own)},
    }


def _answer(found: Answer) -> dict[str, Any]:
    group = found.group
    return {
        "network": visible(group.network),
        "weight_bits": group.weight_bits,
        "name": visible(group.name),
        "headline": visible(found.headline),
        "reasons": [visible(line) for line in found.reasons],
        "table": [[visible(cell) for cell in row] for row in found.table],
        "floor": floor(group.settings, group.base),
    }


def floor(settings: Iterable[Record], base: Record | None) -> float | None:
    """How many points below float a chart had best reach: the least of FLOORS that shows half of the settings; None for all of them."""
    if base is None or base.top1 is None:
        return None
    lost = sorted(base.top1 - r.top1 for r in settings if r.top1 is not None)
    return next((most for most in FLOORS if lost and lost[len(lost) // 2] <= most), None) if lost and lost[-1] > FLOORS[0] else None


def charts(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Every measure against every cost that the records know."""
    records = [r for r in records if r.method != FLOAT]
    families = sorted({family(r) for r in records})
    titles = vega.MEASURES | {f"own{i}": visible(name) for i, name in enumerate(own_names(records))}
    known = [m for m in titles if m.startswith("own") or any(getattr(r, m) is not None for r in records)]
    costs = [c for c in vega.COSTS if any(getattr(r, c) is not None for r in records)]
    made = []
    for measure in known:
        title = titles[measure]
        specs = {cost: vega.front(cost, measure, title, families, title in LOWER) for cost in costs}
        made += [{"cost": cost, "measure": measure, "title": title, "spec": spec} for cost, spec in specs.items()]
    return made


def own_names(records: Iterable[Record]) -> list[str]:
    """The study's own measures."""
    return list(dict.fromkeys(name for r in records for name in r.own))


def cascades(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Top-1 by cascade factor, where some of OverQ's settings were run with several; a line begins at the plain format of as many bits."""
    records = [r for r in records if r.top1 is not None]
    plain = {(r.network, r.weight_bits, words(r)): r.top1 for r in records if r.method in PLAIN}
    lines: dict[tuple[str, int, str], dict[int, float | None]] = {}
    for r in records:
        name = words(r)
        if r.method in OURS and (found := CASCADE.search(name)):
            series = name[: found.start()] + name[found.end() :]
            zero = plain.get((r.network, r.weight_bits, f"plain A{r.payload_bits:g}" + "".join(series.partition(",")[1:])))
            lines.setdefault((r.network, r.weight_bits, series), {0: zero} if zero is not None else {})[int(found[1])] = r.top1
    if not any(len(line.keys() - {0}) > 1 for line in lines.values()):
        return []
    return [
        {"network": visible(network), "weight_bits": width, "series": series, "cascade": cascade, "top1": top1}
        for (network, width, series), line in lines.items() if len(line) > 1
        for cascade, top1 in sorted(line.items())
    ]  # fmt: skip


def ranked_layers(contents: Contents) -> list[tuple[str, str, tuple[LayerCoverage, ...]]]:
    """`Contents.layers`, those of OverQ first, the most accurate first."""
    top1 = {(r.network, r.label): (r.method in OURS, r.top1 or 0.0) for r in contents.records}
    return sorted(contents.layers, key=lambda each: top1.get(each[:2], (False, 0.0)), reverse=True)


def _layers(contents: Contents) -> tuple[list[dict[str, Any]], list[str]]:
    """Layers of the settings, best first, as many as have room; and a line about the rest."""
    ranked = ranked_layers(contents)
    kept: list[dict[str, Any]] = []
    room = LAYER_ROOM
    name_of = {(r.network, r.label): words(r) for r in contents.records}
    for network, label, layers in ranked:
        names = {"network": visible(network), "label": visible(label), "name": name_of.get((network, label), visible(label))}
        entry = {**names, "rows": [_layer(layer) for layer in layers]}
        room -= len(json.dumps(entry))
        if room < 0:
            break
        kept.append(entry)
    left = len(ranked) - len(kept)
    return kept, [f"layers of {left} settings, so that this file stays small: `overq study show` and the store have them"] if left else []


def _layer(layer: LayerCoverage) -> list[Any]:
    shares = (layer.zero_rate, layer.outlier_rate, layer.coverage, layer.expected_coverage)
    return [visible(layer.name), *(None if share is None else round(share, 4) for share in shares), layer.format, layer.step, layer.sqnr]


def _inputs(network: str, inputs: Iterable[Any]) -> dict[str, Any]:
    """Layers with lanes enough to look at; the others' vectors are left out."""
    found = [
        {
            "name": visible(i.name),
            "low": i.low,
            "high": i.high,
            "edges": i.edges,
            "counts": i.counts,
            "vectors": i.vectors if i.lanes >= LANES else (),
            "lanes": i.lanes,
        }
        for i in inputs
    ]
    return {"network": visible(network), "layers": found}
