"""Draw docs/img/*.svg and *.png: each mode of the format on one small row, as `overq.spec.encode` lays it out.

    python scripts/draw_format.py [folder]

Nothing in the pictures is placed by hand: digits, states, arrows and results are read from the definition.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from overq.spec import Format, Lane, State, effective, encode
from overq.spec.dot import source
from overq.spec.encode import give_way, is_outlier, is_zero, one_digit

INK, FAINT, OUTLIER, GONE = "#1f2933", "#9aa5b1", "#d64545", "#d9730d"
FILL = {State.OWN: "#d6e6f7", State.RANGE: "#ffc078", State.MOVED: "#b7e4c7", State.PRECISION: "#d9c2f0"}
EDGE = {State.OWN: "#4a7fb5", State.RANGE: "#d9730d", State.MOVED: "#2f8f5b", State.PRECISION: "#7d4fb3"}
MEANING = {
    State.OWN: "OWN: own value or first digit",
    State.RANGE: "RANGE: high digit of the value before",
    State.MOVED: "MOVED: the value before, moved up",
    State.PRECISION: "PRECISION: fraction digit of the value before",
}
INPUT_Y, LANE_Y, WEIGHT_Y, VALUE_Y, LAST_Y = 4.7, 3.05, 1.45, 0.55, 0.0  # middles of a panel's five rows
HALF_W, HALF_H = 0.36, 0.29  # of a box


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


def box(ax: Axes, x: float, y: float, fill: str, edge: str, width: float = 1.2, style: str = "-") -> None:
    patch = FancyBboxPatch(
        (x - HALF_W, y - HALF_H), 2 * HALF_W, 2 * HALF_H, boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=fill, edgecolor=edge, linewidth=width, linestyle=style, zorder=2,
    )  # fmt: skip
    ax.add_patch(patch)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> None:
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=7 + 3 * width, color=colour, linewidth=width, zorder=1, shrinkA=0, shrinkB=0
        )
    )


def panel(ax: Axes, example: Example) -> None:
    """Inputs, lanes, weights, results: one example on one axes."""
    fmt, lanes = example.fmt, example.lanes
    for i, (x, t) in enumerate(zip(example.row, example.t, strict=True)):
        outlier, gone = is_outlier(t, fmt), example.gone[i]
        edge, width = (OUTLIER, 2.0) if outlier else (GONE, 2.0) if gone else (FAINT, 1.0)
        box(ax, i, INPUT_Y, "white", edge, width, "--" if gone or is_zero(t, fmt) else "-")
        ax.text(i, INPUT_Y, number(x), ha="center", va="center", color=OUTLIER if outlier else INK, fontsize=11)
        box(ax, i, WEIGHT_Y, "#eef1f4", FAINT, 1.0)
        ax.text(i, WEIGHT_Y, f"$w_{{{i}}}$", ha="center", va="center", color=INK, fontsize=11)
        results(ax, i, example)
    for i, (digit, state) in enumerate(lanes):
        box(ax, i, LANE_Y, FILL[state], EDGE[state], 1.6)
        ax.text(i, LANE_Y, number(digit), ha="center", va="center", color=INK, fontsize=13, fontweight="bold")
        channel = source(i, state)
        colour, width = (FAINT, 0.9) if state is State.OWN else (EDGE[state], 1.9)
        arrow(ax, (channel + 0.22 * (i - channel), INPUT_Y - HALF_H), (i - 0.12 * (i - channel), LANE_Y + HALF_H + 0.02), colour, width)
        arrow(
            ax,
            (i - 0.12 * (i - channel), LANE_Y - HALF_H - 0.27),
            (channel + 0.22 * (i - channel), WEIGHT_Y + HALF_H + 0.02),
            colour,
            width,
        )
        scale = {State.RANGE: f" ·{fmt.base}", State.PRECISION: f" ÷{1 << fmt.fraction_bits}"}.get(state, "")
        ax.text(i, LANE_Y - HALF_H - 0.14, state.name + scale, ha="center", va="center", color=EDGE[state], fontsize=6.5, fontweight="bold")
    last = "plain, for comparison" if example.compare else "sum in the column"
    captions = {
        INPUT_Y: "input x / Δ",
        LANE_Y: "lane: digit, state",
        WEIGHT_Y: "weight it meets",
        VALUE_Y: "value that counts",
        LAST_Y: last,
    }
    for y, caption in captions.items():
        ax.text(-0.62, y, caption, ha="right", va="center", color=INK, fontsize=9.5)
    if not example.compare:
        terms = [f"{number(value)} $w_{{{i}}}$" for i, value in enumerate(example.values) if value]
        ax.text(-HALF_W, LAST_Y, " + ".join(terms), ha="left", va="center", color=INK, fontsize=10.5)
    tile = fmt.lanes or len(lanes)
    for edge in range(tile, len(lanes), tile):
        ax.plot([edge - 0.5] * 2, [LAST_Y - 0.25, INPUT_Y + 0.4], color=INK, linewidth=2, linestyle=(0, (3, 2)))
        ax.text(edge - 0.5, INPUT_Y + 0.44, "tile edge", ha="center", va="bottom", color=INK, fontsize=8.5)
    ax.set(xlim=(-2.65, len(lanes) - 0.4), ylim=(LAST_Y - 0.3, example.top))
    ax.set_title(example.title, fontsize=12, color=INK, fontweight="bold", loc="left", x=0.02)
    ax.set_aspect("equal", anchor="N")
    ax.axis("off")


def results(ax: Axes, i: int, example: Example) -> None:
    """The bottom rows: green where this format comes closer to the input than one digit does, red where a value is clipped."""
    x, value, plain = example.row[i], example.values[i], example.plain[i]

    def colour(shown: float, usual: str) -> str:
        return OUTLIER if abs(shown - x) > 1 else usual

    better = abs(value - x) < abs(plain - x)
    weight = "bold" if better else "normal"
    ax.text(
        i,
        VALUE_Y,
        number(value),
        ha="center",
        va="center",
        fontsize=10.5,
        fontweight=weight,
        color=EDGE[State.MOVED] if better else colour(value, INK),
    )
    if example.compare:
        ax.text(i, LAST_Y, number(plain), ha="center", va="center", fontsize=10.5, color=colour(plain, FAINT))


def legend(fig: Figure, states: list[State], gone: bool) -> None:
    """The states that occur, and the two kinds of frame."""
    handles = [Patch(facecolor=FILL[s], edgecolor=EDGE[s], label=MEANING[s]) for s in states]
    handles.append(Patch(facecolor="white", edgecolor=OUTLIER, linewidth=2, label="outlier: one digit clips it"))
    handles.append(Patch(facecolor="white", edgecolor=FAINT, linestyle="--", label="zero: its lane is free"))
    handles += [Patch(facecolor="white", edgecolor=GONE, linewidth=2, linestyle="--", label="gives way: is taken for a zero")] * gone
    fig.legend(handles=handles, loc="lower center", ncols=2, fontsize=8.5, frameon=False, labelcolor=INK)


def figure(examples: tuple[Example, ...], side_by_side: bool = False) -> Figure:
    """One figure of one or more panels with a common legend."""
    count, lanes = len(examples), len(examples[0].row)
    rows, columns = (1, count) if side_by_side else (count, 1)
    height = max(example.top for example in examples) - LAST_Y + 0.3
    title = 0.3 + 0.2 * examples[0].title.count("\n")
    size = (0.82 * (lanes + 2.3) * columns, (0.82 * height + title) * rows + 0.85)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax, example in zip(axes.flat, examples, strict=True):
        panel(ax, example)
    legend(fig, sorted({lane.state for example in examples for lane in example.lanes}), any(any(e.gone) for e in examples))
    fig.subplots_adjust(left=0.01, right=0.99, top=1 - (title + 0.1) / size[1], bottom=0.8 / size[1], hspace=0.1, wspace=0.04)
    return fig


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"svg.hashsalt": "overq", "font.family": "DejaVu Sans"})  # the same bytes on every run
    figures = {"idea": figure(IDEA, side_by_side=True)} | {f"format-{name}": figure(examples) for name, examples in FIGURES.items()}
    for name, fig in figures.items():
        fig.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")
        fig.savefig(folder / f"{name}.png", dpi=130, facecolor="white")
        plt.close(fig)
        print(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "img")
