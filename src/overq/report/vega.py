"""Charts as Vega-Lite specifications: the page draws them, and the very same ones become PNG, SVG and PDF.

A specification holds no data. The page hands over its datasets and moves its parameters (network, weights, hidden, floor); `render.still`
does so for a file. The Pareto front is found inside the specification, so that it follows what is shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Spec = dict[str, Any]
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name, never fetched
COSTS = {
    "bits": "bits stored and moved per activation value, state included",
    "multiplier": "multiplier: activation bits × weight bits",
    "area": "area of one processing element",
    "array_area": "area of the whole array with its encoder",
    "cycles": "cycles of one image",
    "energy": "energy of one image (mJ)",
    "edp": "energy of one image × its latency (mJ · ms)",
}
MEASURES = {"top1": "top-1 (%)", "sqnr": "signal to noise of the scores (dB)"}
# Middling colours: three times as bright or as dark as a white and as a dark page. Shapes tell methods apart without colour.
COLORS = ("#6b7280", "#d9480f", "#1c7ed6", "#2b8a3e", "#9c36b5", "#d6336c", "#0c8599", "#a0522d", "#74801f", "#5c5fd6", "#b8651b")
SHAPES = (
    "circle",
    "diamond",
    "square",
    "triangle-up",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
    "stroke",
    "wedge",
    "arrow",
)
FRONT = "#2f9e44"


def front(cost: str, measure: str, title: str, families: Iterable[str], lower: bool = False) -> Spec:
    """A measure against a cost: settings with their intervals, the front as a bold staircase, its settings named, float as a line.

    Dataset `settings`: rows with network, weight_bits, family, name, and the fields of a Record. Parameters: network, weights (bits),
    hidden (families), floor (the least value drawn). Dataset `floats`: the same of the float networks.
    title: of the measure; lower: the less of it the better.
    """
    order = sorted(families, key=lambda f: (f != "plain", f != "OverQ", f))
    scale = {"domain": order, "range": [COLORS[i % len(COLORS)] for i in range(len(order))]}
    shapes = {"domain": order, "range": [SHAPES[i % len(SHAPES)] for i in range(len(order))]}
    wanted = [
        "datum.network === network && datum.weight_bits === weights && datum.method !== 'float' && indexof(hidden, datum.family) < 0",
        f"isValid(datum[{cost!r}]) && isValid(datum[{measure!r}]) && datum[{measure!r}] >= floor",
    ]
    x = {"field": cost, "type": "quantitative", "title": COSTS[cost], "scale": {"zero": False, "nice": False, "padding": 64}}
    y = {"field": measure, "type": "quantitative", "title": title, "scale": {"zero": False, "padding": 8}}
    color = {"field": "family", "type": "nominal", "scale": scale, "legend": {"title": None, "orient": "bottom", "columns": 4}}
    shape = {"field": "family", "type": "nominal", "scale": shapes, "legend": color["legend"]}
    by_cost = {"sort": [{"field": cost}, {"field": measure, "order": "ascending" if lower else "descending"}], "ignorePeers": True}
    on_front = [
        {"window": [{"op": "min" if lower else "max", "field": measure, "as": "best"}], "frame": [None, 0], **by_cost},
        {"window": [{"op": "lag", "field": "best", "as": "before"}], **by_cost},
        {"filter": f"!isValid(datum.before) || datum.before {'>' if lower else '<'} datum[{measure!r}]"},
    ]
    stairs: Spec = {
        "transform": on_front,
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 5, "opacity": 0.6, "color": FRONT, "aria": False},
        "encoding": {"x": x, "y": y, "order": {"field": cost}},
    }
    names: Spec = {
        "transform": on_front,
        "mark": {
            "type": "text",
            "align": "right",
            "dx": -7,
            "dy": 12 if lower else -8,
            "fontSize": 11,
            "fontWeight": "bold",
            "aria": False,
        },
        "encoding": {"x": x, "y": y, "text": {"field": "short"}},
    }
    bars: Spec = {
        "transform": [{"filter": "isValid(datum.from) && isValid(datum.to)"}],
        "mark": {"type": "rule", "opacity": 0.5, "clip": True, "aria": False},
        "encoding": {"x": x, "y": {"field": "from", "type": "quantitative"}, "y2": {"field": "to"}, "color": color},
    }
    points: Spec = {
        "params": [{"name": "hovered", "select": {"type": "point", "on": "pointerover", "clear": "pointerout"}}],
        "mark": {"type": "point", "filled": True, "opacity": 0.9, "clip": True},
        "encoding": {
            "x": x,
            "y": y,
            "color": color,
            "shape": shape,
            "size": {"condition": {"param": "hovered", "empty": False, "value": 190}, "value": 75},
            "tooltip": _tooltip(cost, measure, title),
        },
    }
    layers = [stairs, *([bars] if measure == "top1" else []), points, names]
    if measure == "top1":
        line = {"x": {"value": 0}, "x2": {"value": "width"}, "y": {"field": measure, "type": "quantitative"}}
        kept = [{"filter": "datum.method === 'float' && datum.network === network && isValid(datum.top1)"}]
        layers.insert(
            0,
            {
                "data": {"name": "floats"},
                "transform": kept,
                "mark": {"type": "rule", "strokeDash": [4, 4], "opacity": 0.8, "aria": False},
                "encoding": line,
            },
        )
        layers.insert(
            1,
            {
                "data": {"name": "floats"},
                "transform": kept,
                "mark": {"type": "text", "align": "right", "dy": -6, "aria": False},
                "encoding": {"x": {"value": "width"}, "y": line["y"], "text": {"value": "float"}},
            },
        )
    return {
        "$schema": SCHEMA,
        "description": f"{title} against {COSTS[cost]}; the table of settings below holds the same numbers",
        "params": [
            {"name": "network", "value": ""},
            {"name": "weights", "value": 8},
            {"name": "hidden", "value": []},
            {"name": "floor", "value": -1e9},
        ],
        "data": {"name": "settings"},
        "height": 400,
        "transform": [{"filter": text} for text in wanted]
        + [{"calculate": "datum.base + datum.low", "as": "from"}, {"calculate": "datum.base + datum.high", "as": "to"}],
        "layer": layers,
    }


def _tooltip(cost: str, measure: str, title: str) -> list[dict[str, Any]]:
    shown = [
        ("name", "setting", None),
        ("top1", "top-1 (%)", ".2f"),
        ("difference", "to float, points", "+.2f"),
        ("low", "from", "+.2f"),
        ("high", "to", "+.2f"),
        ("bits", "stored bits", ".3~f"),
        ("sqnr", "scores, dB", ".1f"),
        ("coverage", "outliers served", ".3f"),
    ]
    shown += [(cost, COSTS[cost].partition(":")[0], ",.4~f")] if cost != "bits" else []
    shown += [(measure, title, ".4~f")] if measure not in MEASURES else []
    return [{"field": field, "title": title, **({"format": form} if form else {})} for field, title, form in shown]


def against_cascade() -> Spec:
    """Top-1 against the cascade factor. Dataset `cascades`: cascade, top1, series; float as a line of its own."""
    return {
        "$schema": SCHEMA,
        "description": "top-1 against the cascade factor; 0 is plain quantization",
        "data": {"name": "cascades"},
        "height": 300,
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": {"field": "cascade", "type": "quantitative", "title": "cascade factor c (0 is plain)", "axis": {"tickMinStep": 1}},
            "y": {"field": "top1", "type": "quantitative", "title": MEASURES["top1"], "scale": {"zero": False}},
            "color": {
                "field": "series",
                "type": "nominal",
                "scale": {"range": list(COLORS[1:])},
                "legend": {"title": None, "orient": "bottom"},
            },
            "tooltip": [
                {"field": "series", "title": "setting"},
                {"field": "cascade"},
                {"field": "top1", "title": "top-1 (%)", "format": ".2f"},
            ],
        },
    }


def against(x: str, measure: str, series: Iterable[str]) -> Spec:
    """A measure against something that is set, a panel for each network. Dataset `lines`: network, x, y, series; x, measure: titles."""
    order = list(series)
    legend = {"title": None, "orient": "bottom", "columns": 6, "labelLimit": 400}
    told = {
        name: {"field": "series", "type": "nominal", "scale": {"domain": order, "range": list(among[: len(order)])}, "legend": legend}
        for name, among in (("color", COLORS[1:]), ("shape", SHAPES))
    }
    return {
        "$schema": SCHEMA,
        "description": f"{measure} against {x}, a line for each setting, a panel for each network",
        "data": {"name": "lines"},
        "facet": {"field": "network", "type": "nominal", "sort": None, "title": None},
        "columns": 3,
        "resolve": {"scale": {"y": "independent"}},
        "spec": {
            "width": 280,
            "height": 240,
            "mark": {"type": "line", "point": {"size": 45}, "strokeWidth": 1.4},
            "encoding": {
                "x": {"field": "x", "type": "quantitative", "title": x, "axis": {"tickMinStep": 1}},
                "y": {"field": "y", "type": "quantitative", "title": measure, "scale": {"zero": False}},
                **told,
            },
        },
    }


def layers() -> Spec:
    """Shares of each layer. Dataset `layers`: name, kind (zeros, outliers, coverage, theory), share; in the order they run."""
    kinds = {"zeros": COLORS[0], "outliers": COLORS[5], "outliers served": COLORS[1], "1 − (1 − p)^c": COLORS[2]}
    return {
        "$schema": SCHEMA,
        "description": "shares of zeros, of outliers, of outliers served and what independent zeros would serve, for each layer",
        "data": {"name": "layers"},
        "height": 300,
        "mark": {"type": "line", "point": {"size": 45}, "strokeWidth": 1.2},
        "encoding": {
            "x": {
                "field": "name",
                "type": "nominal",
                "sort": None,
                "title": None,
                "axis": {"labelAngle": -60, "labelLimit": 140, "labelOverlap": True},
            },
            "y": {"field": "share", "type": "quantitative", "title": "share", "scale": {"domain": [0, 1]}},
            "color": {
                "field": "kind",
                "type": "nominal",
                "scale": {"domain": list(kinds), "range": list(kinds.values())},
                "legend": {"title": None, "orient": "bottom"},
            },
            "shape": {
                "field": "kind",
                "type": "nominal",
                "scale": {"domain": list(kinds), "range": list(SHAPES[:4])},
                "legend": {"title": None, "orient": "bottom"},
            },
            "tooltip": [{"field": "name", "title": "layer"}, {"field": "kind", "title": "share of"}, {"field": "share", "format": ".4f"}],
        },
    }


def theory() -> Spec:
    """Measured coverage against what independent zeros would give. Dataset `covered`: name, coverage, expected."""
    both: Spec = {"type": "quantitative", "scale": {"domain": [0, 1]}}
    return {
        "$schema": SCHEMA,
        "description": "outliers served in each layer, measured against theory",
        "height": 300,
        "layer": [
            {
                "data": {"values": [{"expected": 0, "coverage": 0}, {"expected": 1, "coverage": 1}]},
                "mark": {"type": "line", "opacity": 0.4, "aria": False},
                "encoding": {"x": {"field": "expected", **both}, "y": {"field": "coverage", **both}},
            },
            {
                "data": {"name": "covered"},
                "mark": {"type": "point", "filled": True, "size": 60, "color": COLORS[1]},
                "encoding": {
                    "x": {"field": "expected", **both, "title": "theory: 1 − (1 − p)^c, p the layer's zeros"},
                    "y": {"field": "coverage", **both, "title": "outliers served"},
                    "tooltip": [
                        {"field": "name", "title": "layer"},
                        {"field": "coverage", "format": ".3f"},
                        {"field": "expected", "title": "theory", "format": ".3f"},
                    ],
                },
            },
        ],
    }


def histogram() -> Spec:
    """What one layer saw. Dataset `bins`: from, to, count; dataset `marks`: at, text (clip points of one and of two digits)."""
    x: Spec = {"field": "from", "type": "quantitative", "title": "value of the layer's input"}
    return {
        "$schema": SCHEMA,
        "description": "how often the values of a layer's input occur (logarithmic), with the greatest value of one and of two digits",
        "height": 260,
        "layer": [
            {
                "data": {"name": "bins"},
                "transform": [{"filter": "datum.count > 0"}, {"calculate": "0.5", "as": "least"}],
                "mark": {"type": "bar", "color": COLORS[0], "opacity": 0.75},
                "encoding": {
                    "x": x,
                    "x2": {"field": "to"},
                    "y2": {"field": "least"},
                    "y": {"field": "count", "type": "quantitative", "title": "how many", "scale": {"type": "log", "domainMin": 0.5}},
                    "tooltip": [{"field": "from", "format": ".4~g"}, {"field": "to", "format": ".4~g"}, {"field": "count", "format": ","}],
                },
            },
            {
                "data": {"name": "marks"},
                "mark": {"type": "rule", "color": COLORS[1], "strokeWidth": 2, "strokeDash": [5, 3]},
                "encoding": {
                    "x": {"field": "at", "type": "quantitative"},
                    "tooltip": [{"field": "text"}, {"field": "at", "format": ".4~g"}],
                },
            },
            {
                "data": {"name": "marks"},
                "mark": {"type": "text", "align": "left", "dx": 4, "baseline": "top", "aria": False},
                "encoding": {"x": {"field": "at", "type": "quantitative"}, "y": {"value": 2}, "text": {"field": "text"}},
            },
        ],
    }


def cycles() -> Spec:
    """Cycles of each layer. Dataset `cycles`: layer, cycles, utilization, in the order they run."""
    return {
        "$schema": SCHEMA,
        "description": "cycles of each layer on the array",
        "data": {"name": "cycles"},
        "height": 260,
        "mark": {"type": "bar", "color": COLORS[2]},
        "encoding": {
            "x": {
                "field": "layer",
                "type": "nominal",
                "sort": None,
                "title": None,
                "axis": {"labelAngle": -60, "labelLimit": 140, "labelOverlap": True},
            },
            "y": {"field": "cycles", "type": "quantitative", "title": "cycles"},
            "tooltip": [
                {"field": "layer"},
                {"field": "cycles", "format": ","},
                {"field": "utilization", "title": "elements used", "format": ".1%"},
            ],
        },
    }
