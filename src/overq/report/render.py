"""Specifications of charts made whole and drawn: with vl-convert, which holds Vega, into a file or for a page without network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from overq.errors import InputError, ToolError
from overq.report.vega import SCHEMA, Spec

VERSION = "6.4"
KINDS = ("png", "svg", "pdf")
Datasets = Mapping[str, list[dict[str, Any]]]
EMPTY: Mapping[str, Any] = {}
PAPER = {False: "#ffffff", True: "#16191d"}  # what a file is drawn on; a page has its own


def theme(dark: bool = False) -> Spec:
    """Vega's configuration for a light or a dark page."""
    ink, line = ("#e6edf3", "#3a434d") if dark else ("#1b1f24", "#d8dee4")
    axis = dict.fromkeys(("labelColor", "titleColor", "domainColor", "tickColor"), ink) | {"gridColor": line}
    sizes = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "background": "transparent",
        "axis": axis | sizes,
        "legend": {"labelColor": ink, "titleColor": ink, "labelFontSize": 12, "symbolSize": 110},
        "title": {"color": ink, "subtitleColor": ink},
        "header": {"labelColor": ink, "labelFontSize": 13},
        "view": {"stroke": line},
        "text": {"color": ink},
        "rule": {"color": ink},
        "line": {"color": ink},
        "font": "system-ui, sans-serif",
    }


def still(spec: Spec, datasets: Datasets, parameters: Mapping[str, Any] = EMPTY, title: Iterable[str] = (), width: int = 560) -> Spec:
    """The specification for print: data and parameters inside, nothing that follows a pointer. title: lines, the first the largest."""
    values = {each["name"]: each["value"] for each in spec.get("params", ())} | dict(parameters)
    whole: Spec = _still(spec, datasets, values)
    if "facet" not in whole:
        whole["width"] = width
    return _titled(whole, title)


def beside(panels: Iterable[Spec], title: Iterable[str] = (), columns: int = 3) -> Spec:
    """Several of `still` as one."""
    own = {part: dict.fromkeys(("color", "shape"), "independent") for part in ("scale", "legend")}
    panels = [{key: value for key, value in panel.items() if key != "$schema"} for panel in panels]
    return _titled({"$schema": SCHEMA, "concat": panels, "columns": columns, "spacing": 40, "resolve": own}, title)


def _titled(spec: Spec, title: Iterable[str]) -> Spec:
    first, *rest = [*title] or [""]
    return spec | {"title": {"text": first, "subtitle": rest, "anchor": "start", "offset": 14}} if first else spec


def _still(part: Any, datasets: Datasets, parameters: Mapping[str, Any]) -> Any:
    if isinstance(part, list):
        return [_still(each, datasets, parameters) for each in part]
    if not isinstance(part, dict):
        return part
    made: Spec = {}
    for key, value in part.items():
        if key in ("params", "tooltip", "condition"):
            continue
        if key == "data" and "name" in value:
            made[key] = {"values": datasets.get(value["name"], [])}
        elif key == "filter":
            made[key] = _constants(value, parameters)
        else:
            made[key] = _still(value, datasets, parameters)
    return made


def _constants(expression: str, parameters: Mapping[str, Any]) -> str:
    """A Vega expression with the parameters' values in place of their names; fields (datum.name) and text are others."""
    return re.sub(r"(?<![.\w'])\w+", lambda word: json.dumps(parameters[word[0]]) if word[0] in parameters else word[0], expression)


def picture(spec: Spec, kind: str, dark: bool = False) -> bytes:
    """The picture file (one of KINDS) of a specification that holds its data. ToolError without vl-convert."""
    vl = library()
    look = theme(dark) | {"background": PAPER[dark], "font": "Liberation Sans, Arial, Helvetica, sans-serif"}
    text = json.dumps(spec | {"config": look, "padding": 12})
    if kind == "svg":
        return str(vl.vegalite_to_svg(text, vl_version=VERSION)).encode()
    make = {"png": vl.vegalite_to_png, "pdf": vl.vegalite_to_pdf}[kind]
    return bytes(make(text, vl_version=VERSION, **({"scale": 2.0} if kind == "png" else {})))


def kind_of(path: Path, option: str = "") -> str:
    """What a file's name asks for; InputError where it is no picture, ToolError where none can be drawn."""
    if (kind := path.suffix[1:].lower()) not in KINDS:
        raise InputError(f"{option} {path}: the name must end in one of {', '.join(f'.{each}' for each in KINDS)}".strip())
    library()
    return kind


def script() -> str:
    """Vega, Vega-Lite and vega-embed as one script for a page without network."""
    return str(library().javascript_bundle(vl_version=VERSION))


def library() -> Any:
    """vl-convert; ToolError where it is not installed."""
    try:
        import vl_convert
    except ImportError as error:
        raise ToolError("charts need vl-convert-python, which is not installed: pip install 'overq[report]'") from error
    return vl_convert
