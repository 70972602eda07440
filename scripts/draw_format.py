"""Draw docs/img/format-*.svg and idea.svg: each mode of the format on one small row, as `overq.spec.encode` lays it out.

    python scripts/draw_format.py [folder]

Nothing in the pictures is placed by hand: digits, states, arrows and results are read from the definition. Each is drawn twice, for a
light and, with -dark in its name, for a dark page.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

from overq.spec import Format, Lane, State, effective, encode
from overq.spec.dot import source
from overq.spec.encode import give_way, is_outlier, is_zero, one_digit


@dataclass(frozen=True)
class Colours:
    """Of a page. better: values that come nearer than one digit does; fill, edge: of lanes, by their state."""

    paper: str
    ink: str
    faint: str
    box: str
    weight: str
    outlier: str
    gone: str
    fill: dict[State, str]
    edge: dict[State, str]


LIGHT = Colours(
    "#ffffff", "#1f2933", "#69737d", "#ffffff", "#eef1f4", "#c92a2a", "#b35309",
    {State.OWN: "#d6e6f7", State.RANGE: "#ffc078", State.MOVED: "#b7e4c7", State.PRECISION: "#d9c2f0"},
    {State.OWN: "#31689e", State.RANGE: "#a34f00", State.MOVED: "#1f7a46", State.PRECISION: "#6f42a8"},
)  # fmt: skip
DARK = Colours(
    "#16191d", "#e6edf3", "#9aa5b1", "#20262d", "#2a3038", "#ff8a80", "#f0a04b",
    {State.OWN: "#1d3a57", State.RANGE: "#6b4310", State.MOVED: "#1d4a29", State.PRECISION: "#43316b"},
    {State.OWN: "#8fbdec", State.RANGE: "#f5b266", State.MOVED: "#7bd19b", State.PRECISION: "#c3a8f0"},
)  # fmt: skip
MEANING = {
    State.OWN: "OWN: own value or first digit",
    State.RANGE: "RANGE: high digit of the value before",
    State.MOVED: "MOVED: the value before, moved up",
    State.PRECISION: "PRECISION: fraction digit of the value before",
}
INPUT_Y, LANE_Y, WEIGHT_Y, VALUE_Y, LAST_Y = 4.7, 3.05, 1.45, 0.55, 0.0  # middles of a panel's five rows, upwards
HALF_W, HALF_H = 0.36, 0.29  # of a box
LEFT = 2.65  # of lane 0, for the captions
UNIT = 60  # pixels
EMPTY = '<tspan dy="-4"></tspan>'
FONTS = "Segoe UI, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
LINE = 20  # of a title or a legend


@dataclass(frozen=True)
class Example:
    """One panel: real inputs in units of the step, and the format that lays them on lanes.

    compare     the last row shows what one digit per value gives, else the array's sum
    """

    title: str
    row: tuple[float, ...]
    fmt: Format
    compare: bool = True

    @property
    def t(self) -> list[int]:
        return [math.floor(x * self.fmt.unit) for x in self.row]

    @property
    def gone(self) -> list[bool]:
        """The lanes that give way."""
        return [a != b for a, b in zip(self.t, give_way(self.t, self.fmt), strict=True)]

    @property
    def lanes(self) -> list[Lane]:
        return encode(self.t, self.fmt)

    @property
    def values(self) -> list[float]:
        """What the array computes with, in units of the step."""
        return [E / (1 << self.fmt.fraction_bits) for E in effective(self.lanes, self.fmt)]

    @property
    def top(self) -> float:
        """Upper limit of the drawing; a tile's edge has a caption there."""
        tiled = self.fmt.lanes is not None and self.fmt.lanes < len(self.row)
        return INPUT_Y + (0.75 if tiled else 0.45)

    @property
    def plain(self) -> list[int]:
        """What one digit per value gives."""
        return [one_digit(t, self.fmt) for t in self.t]


RANGE_ONLY, FULL = Format(bits=4, cascade=1, range_bits=4, fraction_bits=0), Format(4, 4, range_bits=4, fraction_bits=4)
EVICT = (0.1, 40.2, 5.1, 1.1, 6.2, 21.3, 0.2, 3.0)
CROWDED = (2, 18.2, 60.4, 4, 0.1, 9.45, 6.1, 0.2)

IDEA = (
    Example("Before: 4 plain bits clip 37 to 15,\nand the lane of the 0 does nothing", (5, 37, 0, 9), Format.plain(4), compare=False),
    Example("After: 37 = 5 + 2·16 takes two lanes,\nits own and the free one", (5, 37, 0, 9), RANGE_ONLY, compare=False),
)
FIGURES: dict[str, tuple[Example, ...]] = {
    "plain": (
        Example(
            "Plain: one digit per lane (b = 4, digits 0 … 15)", (3.2, 21.3, 0.2, 7.6, 40.2, 5.1, 0, 9.0), Format.plain(4), compare=False
        ),
    ),
    "range": (Example("Range overwrite, c = 1: the zero next door", (3.2, 21.3, 0.2, 7.6, 40.2, 5.1, 0, 9.0), RANGE_ONLY),),
    "cascade": (
        Example("Cascading, c = 3: values in between move up", (3.2, 21.3, 0.2, 40.2, 5.1, 7.6, 0, 9.0), RANGE_ONLY.with_(cascade=3)),
    ),
    "precision": (
        Example(
            "Range and precision overwrite, c = 1: a zero that serves no outlier",
            (3.2, 6.4, 0.1, 25.7, 0, 9.0, 2.45, 0),
            FULL.with_(cascade=1),
        ),
    ),
    "policy": (
        Example("Policy first: the outlier farthest from the zero (c = 4)", CROWDED, FULL),
        Example("Policy largest: the value that one digit represents worst (c = 4)", CROWDED, FULL.with_(policy="largest")),
    ),
    "evict": (
        Example("No zero behind 40.2 (c = 3): it is clipped", EVICT, RANGE_ONLY.with_(cascade=3)),
        Example("The same with evict = 1: the 1.1 gives way", EVICT, RANGE_ONLY.with_(cascade=3, evict=1)),
    ),
    "tile": (
        Example(
            "Tiles of 4 lanes: nothing crosses the edge (c = 2)",
            (5.2, 2.0, 3.1, 22.3, 0, 30.2, 4.4, 0.1),
            RANGE_ONLY.with_(cascade=2, lanes=4),
        ),
    ),
    "signed": (
        Example(
            "Signed, balanced digits −8 … 7 (c = 2)",
            (-3.3, 11.3, 0.2, -20.6, 2.2, 0.1, -6.45, -0.2),
            FULL.with_(cascade=2, signed=True),
        ),
    ),
}


def number(value: float) -> str:
    """Short decimal with a real minus sign."""
    return f"{value:.4g}".replace("-", "−")


@dataclass(frozen=True)
class Panel:
    """One example. Its coordinates are lanes to the right and rows upwards; `top` and `left` place it, in pixels."""

    example: Example
    colours: Colours
    left: float
    top: float

    @property
    def width(self) -> float:
        return UNIT * (len(self.example.row) + LEFT - 0.4)

    @property
    def title_height(self) -> float:
        return LINE * (1.4 + self.example.title.count("\n"))

    @property
    def height(self) -> float:
        return self.title_height + UNIT * (self.example.top - LAST_Y + 0.4)

    def at(self, x: float, y: float) -> tuple[float, float]:
        return round(self.left + UNIT * (x + LEFT), 1), round(self.top + self.title_height + UNIT * (self.example.top - y), 1)

    def text(self, x: float, y: float, words: str, colour: str, size: float, anchor: str = "middle", bold: bool = False) -> str:
        return text(*self.at(x, y), words, colour, size, anchor, bold)

    def box(self, x: float, y: float, fill: str, edge: str, width: float, dashed: bool = False) -> str:
        left, top = self.at(x - HALF_W, y + HALF_H)
        return box(left, top, 2 * HALF_W * UNIT, 2 * HALF_H * UNIT, fill, edge, width, dashed)

    def arrow(self, start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> str:
        (x0, y0), (x1, y1) = self.at(*start), self.at(*end)
        length, size = math.hypot(x1 - x0, y1 - y0), 4 + 2 * width
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        bx, by = x1 - size * ux, y1 - size * uy
        corners = (x1, y1), (bx - uy * size / 2, by + ux * size / 2), (bx + uy * size / 2, by - ux * size / 2)
        tip = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        return (
            f'<line x1="{x0}" y1="{y0}" x2="{bx:.1f}" y2="{by:.1f}" stroke="{colour}" stroke-width="{width}"/>'
            f'<polygon points="{tip}" fill="{colour}"/>'
        )


def text(x: float, y: float, words: str, colour: str, size: float, anchor: str = "middle", bold: bool = False) -> str:
    """Words on one line, the middle of their height at y; a number after w_ stands lower."""
    heavy = ' font-weight="bold"' if bold else ""
    lower = re.sub(r"w_(\d+)([^w]*)", r'w<tspan font-size="75%" dy="4">\1</tspan><tspan dy="-4">\2</tspan>', escape(words))
    where = f'x="{x}" y="{y}" dy=".35em" text-anchor="{anchor}"'
    return f'<text {where} font-size="{size}" fill="{colour}"{heavy}>{lower.replace(EMPTY, "")}</text>'


def box(left: float, top: float, width: float, height: float, fill: str, edge: str, line: float, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 3"' if dashed else ""
    size = f'x="{left}" y="{top}" width="{width:.1f}" height="{height:.1f}" rx="5"'
    return f'<rect {size} fill="{fill}" stroke="{edge}" stroke-width="{line}"{dash}/>'


def drawn(panel: Panel) -> list[str]:
    """Inputs, lanes, weights, results: one example."""
    example, look = panel.example, panel.colours
    fmt, lanes = example.fmt, example.lanes
    parts = [
        text(panel.left + 14, panel.top + LINE * (i + 0.8), line, look.ink, 15.5, "start", bold=True)
        for i, line in enumerate(example.title.split("\n"))
    ]
    for i, (x, t) in enumerate(zip(example.row, example.t, strict=True)):
        outlier, gone = is_outlier(t, fmt), example.gone[i]
        edge, width = (look.outlier, 2.4) if outlier else (look.gone, 2.4) if gone else (look.faint, 1.2)
        parts += [
            panel.box(i, INPUT_Y, look.box, edge, width, dashed=gone or is_zero(t, fmt)),
            panel.text(i, INPUT_Y, number(x), look.outlier if outlier else look.ink, 14),
            panel.box(i, WEIGHT_Y, look.weight, look.faint, 1.2),
            panel.text(i, WEIGHT_Y, f"w_{i}", look.ink, 14),
            *results(panel, i),
        ]
    for i, (digit, state) in enumerate(lanes):
        channel = source(i, state)
        colour, width = (look.faint, 1.1) if state is State.OWN else (look.edge[state], 2.2)
        scale = {State.RANGE: f" ·{fmt.base}", State.PRECISION: f" ÷{1 << fmt.fraction_bits}"}.get(state, "")
        far, near = channel + 0.22 * (i - channel), i - 0.12 * (i - channel)
        parts += [
            panel.box(i, LANE_Y, look.fill[state], look.edge[state], 1.9),
            panel.text(i, LANE_Y, number(digit), look.ink, 16.5, bold=True),
            panel.arrow((far, INPUT_Y - HALF_H), (near, LANE_Y + HALF_H + 0.02), colour, width),
            panel.arrow((near, LANE_Y - HALF_H - 0.27), (far, WEIGHT_Y + HALF_H + 0.02), colour, width),
            panel.text(i, LANE_Y - HALF_H - 0.14, state.name + scale, look.edge[state], 8.5, bold=True),
        ]
    captions = {
        INPUT_Y: "input x / Δ", LANE_Y: "lane: digit, state", WEIGHT_Y: "weight it meets", VALUE_Y: "value that counts",
        LAST_Y: "plain, for comparison" if example.compare else "sum in the column",
    }  # fmt: skip
    parts += [panel.text(-0.62, y, caption, look.ink, 12.5, "end") for y, caption in captions.items()]
    if not example.compare:
        terms = " + ".join(f"{number(value)} w_{i}" for i, value in enumerate(example.values) if value)
        parts.append(panel.text(-HALF_W, LAST_Y, terms, look.ink, 14, "start"))
    tile = fmt.lanes or len(lanes)
    for edge_at in range(tile, len(lanes), tile):
        (x0, y0), (x1, y1) = panel.at(edge_at - 0.5, LAST_Y - 0.25), panel.at(edge_at - 0.5, INPUT_Y + 0.4)
        line = f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="{look.ink}" stroke-width="2.4" stroke-dasharray="7 5"/>'
        parts += [line, panel.text(edge_at - 0.5, INPUT_Y + 0.54, "tile edge", look.ink, 11.5)]
    return parts


def results(panel: Panel, i: int) -> list[str]:
    """The bottom rows: green where this format comes closer to the input than one digit does, red where a value is clipped."""
    example, look = panel.example, panel.colours
    x, value, plain = example.row[i], example.values[i], example.plain[i]

    def colour(shown: float, usual: str) -> str:
        return look.outlier if abs(shown - x) > 1 else usual

    better = abs(value - x) < abs(plain - x)
    parts = [panel.text(i, VALUE_Y, number(value), look.edge[State.MOVED] if better else colour(value, look.ink), 14, bold=better)]
    return parts + ([panel.text(i, LAST_Y, number(plain), colour(plain, look.faint), 14)] if example.compare else [])


def legend(examples: tuple[Example, ...], look: Colours) -> list[tuple[str, str, float, bool, str]]:
    """(fill, edge, width, dashed, words) of the states that occur and of the kinds of frame."""
    states = sorted({lane.state for example in examples for lane in example.lanes})
    frames = [
        (look.box, look.outlier, 2.4, False, "outlier: one digit clips it"),
        (look.box, look.faint, 1.2, True, "zero: its lane is free"),
    ]
    if any(any(example.gone) for example in examples):
        frames.append((look.box, look.gone, 2.4, True, "gives way: is taken for a zero"))
    return [(look.fill[s], look.edge[s], 1.6, False, MEANING[s]) for s in states] + frames


def figure(examples: tuple[Example, ...], look: Colours, side_by_side: bool = False) -> str:
    """One picture of one or more panels with a common legend in two columns."""
    parts: list[str] = []
    x, y, width, bottom = 0.0, 6.0, 0.0, 0.0
    for example in examples:
        panel = Panel(example, look, x, y)
        parts += drawn(panel)
        width, bottom = max(width, x + panel.width + 10), max(bottom, y + panel.height)
        x, y = (x + panel.width, y) if side_by_side else (x, y + panel.height)
    entries = legend(examples, look)
    rows, left = math.ceil(len(entries) / 2), max(20, width / 2 - 310)
    for i, (fill, edge, line, dashed, words) in enumerate(entries):
        x, y = left + min(620, width - 40) / 2 * (i // rows), bottom + LINE * (i % rows + 0.5)
        parts += [box(x, y - 6, 22, 12, fill, edge, line, dashed), text(x + 30, y, words, look.ink, 12, "start")]
    size = f"{width:.0f}", f"{bottom + LINE * (rows + 0.4):.0f}"
    about = escape(" ".join("; ".join(example.title for example in examples).split()), quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {" ".join(size)}" width="{size[0]}" height="{size[1]}" role="img" '
        f'aria-label="{about}" font-family="{FONTS}">\n'
        f'<rect width="100%" height="100%" fill="{look.paper}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for look, end in ((LIGHT, ""), (DARK, "-dark")):
        figures = {"idea": figure(IDEA, look, side_by_side=True)} | {f"format-{name}": figure(each, look) for name, each in FIGURES.items()}
        for name, svg in figures.items():
            (folder / f"{name}{end}.svg").write_text(svg, encoding="utf-8")
            print(folder / f"{name}{end}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "img")
