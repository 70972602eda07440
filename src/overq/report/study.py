"""Records of a study as a picture: accuracy against cost, with the Pareto front."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from overq.records import Record
from overq.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COSTS = {
    "bits": "bits stored and moved per activation value, metadata included",
    "multiplier": "multiplier: activation bits × weight bits",
    "area": "area of one element",
    "cycles": "cycles of one image",
}
OURS = ("overq", "overq_recipe")
BASELINE = "uniform"


def accuracy(record: Record) -> float:
    """Top-1 in percent; below all others where it was not measured."""
    return -inf if record.top1 is None else record.top1


def front(results: list[Record], cost: str = "bits") -> list[Record]:
    """Those that no other beats: cheapest first, each more accurate than all that cost no more."""
    best: list[Record] = []
    for result in sorted(results, key=lambda r: (getattr(r, cost), -accuracy(r))):
        if not best or accuracy(result) > accuracy(best[-1]):
            best.append(result)
    return best


def verdict(results: list[Record], cost: str = "bits") -> str:
    """Where OverQ stands, in one sentence."""
    ours = [r for r in results if r.method in OURS]
    if not ours:
        return "OverQ was not run"
    names = [r.label for r in front(results, cost) if r in ours]
    if names:
        return f"OverQ is on the front: {', '.join(names)}"
    best = max(ours, key=lambda r: (accuracy(r), -getattr(r, cost)))
    beaten = max((r for r in results if getattr(r, cost) <= getattr(best, cost)), key=lambda r: (accuracy(r), r not in ours))
    for_no_more = f"{beaten.label} gives {accuracy(beaten):.2f} for no more"
    return f"OverQ is NOT on the front: its best, {best.label}, gives {accuracy(best):.2f},\n{for_no_more}"


def study_figure(results: list[Record], cost: str = "bits", note: str = "") -> Figure:
    """One panel per network and weight width; settings whose cost is unknown are left out. note: more words for the cost axis."""
    from matplotlib.figure import Figure

    shown = [r for r in results if r.method != "float" and r.top1 is not None and getattr(r, cost) is not None]
    panels = sorted({(r.network, r.weight_bits) for r in shown})
    figure = Figure(figsize=(8.5 * len(panels), 6.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, (network, width) in zip(axes, panels, strict=True):
        level = next((r.top1 for r in results if r.network == network and r.method == "float"), None)
        mine = [r for r in shown if (r.network, r.weight_bits) == (network, width)]
        _panel(panel, mine, level, cost)
        panel.set_xlabel(COSTS[cost] + note)
        panel.set_title(visible(f"{network}, W{width}, {mine[0].images} images") + f"\n{verdict(mine, cost)}", fontsize=10)
    return figure


def _panel(axes: Axes, results: list[Record], level: float | None, cost: str) -> None:
    from matplotlib import colormaps

    methods = sorted({r.method for r in results}, key=lambda m: (m != BASELINE, m not in OURS, m))
    for i, method in enumerate(methods):
        mine = sorted((r for r in results if r.method == method), key=lambda r: getattr(r, cost))
        style: Any = {
            "color": {BASELINE: "0.2", "overq": "#d55e00"}.get(method, colormaps["tab10"](i % 10)),
            "marker": "Do^vs<>P*Xh"[i % 11],
        }
        axes.errorbar(
            [getattr(r, cost) for r in mine], [accuracy(r) for r in mine], yerr=_bars(mine), elinewidth=0.7, capsize=2,
            linestyle="none", markersize=7, label="plain A3…A8" if method == BASELINE else method, **style,
        )  # fmt: skip
        if method == BASELINE:  # through the best of each cost: with and without bias correction they cost the same
            line = {getattr(r, cost): accuracy(r) for r in sorted(mine, key=accuracy)}
            axes.plot(sorted(line), [line[c] for c in sorted(line)], color=style["color"], linewidth=1.5)
    best = front(results, cost)
    axes.step(
        [getattr(r, cost) for r in best], [accuracy(r) for r in best], where="post", color="#009e73", alpha=0.5, linewidth=4, zorder=0,
        label="Pareto front",
    )  # fmt: skip
    if level is not None:
        axes.axhline(level, color="0.4", linestyle=":", linewidth=1, label=f"float {level:.2f}")
    axes.set_ylabel("top-1 (%); bars: 95 % interval of the difference to float")
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.25)


def _bars(results: list[Record]) -> list[list[float]]:
    """Lengths [below, above] of each bar; 0 where float is not done yet."""
    known = [(r.difference, r.low, r.high) for r in results]
    return [
        [0.0 if d is None or low is None else max(0.0, d - low) for d, low, _ in known],
        [0.0 if d is None or high is None else max(0.0, high - d) for d, _, high in known],
    ]
