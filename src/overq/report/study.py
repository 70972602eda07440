"""Results of a study as CSV and as a picture: accuracy against cost, with the Pareto front."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Result:
    """One setting over all its shards; top1 in percent, bits per activation value, multiplier = activation bits × weight bits."""

    network: str
    label: str
    method: str
    images: int
    correct: int
    top1: float
    payload_bits: float
    metadata_bits: float
    bits: float
    multiplier: float
    weight_bits: int
    seed: int
    seconds: float
    overq: str
    code: str
    torch: str


def to_csv(results: list[Result]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Result)], lineterminator="\n")
    writer.writeheader()
    for result in results:
        writer.writerow({key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(result).items()})
    return text.getvalue()


def front(results: list[Result], cost: str = "bits") -> list[Result]:
    """Those that no other beats: cheapest first, each more accurate than all that cost no more."""
    best: list[Result] = []
    for result in sorted(results, key=lambda r: (getattr(r, cost), -r.top1)):
        if not best or result.top1 > best[-1].top1:
            best.append(result)
    return best


def verdict(results: list[Result], cost: str = "bits") -> str:
    """Where OverQ stands, in one sentence."""
    names = [r.label for r in front(results, cost) if r.method == "overq"]
    if not any(r.method == "overq" for r in results):
        return "OverQ was not run"
    return f"OverQ is on the front: {', '.join(names)}" if names else "OverQ is NOT on the front"


def study_figure(results: list[Result], cost: str = "bits") -> Figure:
    """One panel per network and weight width."""
    from matplotlib.figure import Figure

    quantized = [r for r in results if r.method != "float"]
    panels = sorted({(r.network, r.weight_bits) for r in quantized})
    figure = Figure(figsize=(8.5 * len(panels), 6.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, (network, width) in zip(axes, panels, strict=True):
        level = next((r.top1 for r in results if r.network == network and r.method == "float"), None)
        _panel(panel, [r for r in quantized if (r.network, r.weight_bits) == (network, width)], level, cost)
        panel.set_title(f"{network}, W{width}\n{panel.get_title()}", fontsize=10)
    return figure


def _panel(axes: Axes, results: list[Result], level: float | None, cost: str) -> None:
    from matplotlib import colormaps

    methods = sorted({r.method for r in results}, key=lambda m: (m != "uniform", m != "overq", m))
    for i, method in enumerate(methods):
        mine = sorted((r for r in results if r.method == method), key=lambda r: getattr(r, cost))
        style: Any = {
            "color": {"uniform": "0.2", "overq": "#d55e00"}.get(method, colormaps["tab10"](i % 10)),
            "marker": "Do^vs<>P*Xh"[i % 11],
        }
        axes.plot(
            [getattr(r, cost) for r in mine], [r.top1 for r in mine], linestyle="-" if method == "uniform" else "none", markersize=7,
            label="plain A3…A8" if method == "uniform" else method, **style,
        )  # fmt: skip
    best = front(results, cost)
    axes.step(
        [getattr(r, cost) for r in best],
        [r.top1 for r in best],
        where="post",
        color="#009e73",
        alpha=0.5,
        linewidth=4,
        zorder=0,
        label="Pareto front",
    )
    if level is not None:
        axes.axhline(level, color="0.4", linestyle=":", linewidth=1, label=f"float {level:.2f}")
    axes.set(
        xlabel={
            "bits": "bits stored and moved per activation value, metadata included",
            "multiplier": "multiplier: activation bits × weight bits",
        }[cost],
        ylabel="top-1 (%)",
    )
    axes.set_title(verdict(results, cost))
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.25)
