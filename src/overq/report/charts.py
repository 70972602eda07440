"""Pictures of an Evaluation, drawn with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from overq.records import Accuracy, Evaluation
from overq.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito: told apart by the colour-blind
MARKERS = {"range": "o", "range+precision": "s"}


def drawn(make: Callable[[], Figure], kind: str) -> bytes:
    """The picture file (png, svg or pdf) of a figure; dollar signs in names are no formulas."""
    from matplotlib import rc_context

    picture = io.BytesIO()
    with rc_context({"text.parse_math": False}):
        make().savefig(picture, format=kind, dpi=120)
    return picture.getvalue()


def evaluation_figure(evaluation: Evaluation) -> Figure:
    """Three panels: top-1 against bits, top-1 against cascade factor, coverage per layer against theory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.6), layout="constrained")
    by_bits, by_cascade, coverage = figure.subplots(1, 3)
    _against_bits(by_bits, evaluation)
    _against_cascade(by_cascade, evaluation)
    _against_theory(coverage, evaluation)
    what = f"{evaluation.model} on {evaluation.data}, {evaluation.results[0].images} images"
    figure.suptitle(visible(f"{what}, calibration {evaluation.calibration}"))
    return figure


def _of(evaluation: Evaluation, setting: str) -> list[Accuracy]:
    return [r for r in evaluation.results if r.setting == setting]


def _groups(evaluation: Evaluation) -> dict[tuple[int, str], list[Accuracy]]:
    """OverQ results by (bits, mode), each sorted by cascade."""
    groups: dict[tuple[int, str], list[Accuracy]] = {}
    for result in sorted(_of(evaluation, "overq"), key=lambda r: r.cascade):
        groups.setdefault((result.bits, result.mode), []).append(result)
    return groups


def _color(evaluation: Evaluation, bits: int) -> str:
    wide = sorted({r.bits for r in _of(evaluation, "overq")})
    return COLORS[wide.index(bits) % len(COLORS)]


def _float_line(axes: Axes, evaluation: Evaluation) -> None:
    axes.axhline(evaluation.results[0].top1, color="0.35", linewidth=1, linestyle=":", label=f"float {evaluation.results[0].top1:.2f}")


def _against_bits(axes: Axes, evaluation: Evaluation) -> None:
    plain = sorted(_of(evaluation, "plain"), key=lambda r: r.bits)
    axes.plot([r.bits for r in plain], [r.top1 for r in plain], color="0.2", marker="D", markersize=5, label="plain")
    for (bits, mode), results in _groups(evaluation).items():
        best = results[-1]
        axes.plot([bits], [best.top1], MARKERS[mode], color=_color(evaluation, bits), markersize=8, linestyle="none", label=best.label)
    _float_line(axes, evaluation)
    axes.set(xlabel="activation bits", ylabel="top-1 (%)", title="accuracy against bits")
    axes.set_xticks(sorted({r.bits for r in evaluation.results if r.setting != "float"}))
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.25)


def _against_cascade(axes: Axes, evaluation: Evaluation) -> None:
    plain = {r.bits: r for r in _of(evaluation, "plain")}
    for (bits, mode), results in _groups(evaluation).items():
        line = ([plain[bits]] if bits in plain else []) + results
        axes.plot(
            [r.cascade for r in line], [r.top1 for r in line], color=_color(evaluation, bits), marker=MARKERS[mode],
            linestyle="-" if mode == "range" else "--", label=results[0].format.rpartition(" c")[0],
        )  # fmt: skip
    _float_line(axes, evaluation)
    axes.set(xlabel="cascade factor c (0 is plain)", ylabel="top-1 (%)", title="accuracy against cascade factor")
    axes.set_xticks(sorted({0, *(r.cascade for r in _of(evaluation, "overq"))}))
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.25)


def _against_theory(axes: Axes, evaluation: Evaluation) -> None:
    """Range mode at the fewest bits, where there are most outliers; one point per layer, one colour per cascade factor."""
    groups = {key: results for key, results in _groups(evaluation).items() if key[1] == "range"}
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    if groups:
        bits = min(b for b, _ in groups)
        for color, result in zip(COLORS, groups[bits, "range"], strict=False):
            shown = [layer for layer in result.layers if layer.coverage is not None]
            axes.scatter(
                [x.expected_coverage for x in shown],
                [x.coverage or 0.0 for x in shown],
                s=22,
                color=color,
                alpha=0.8,
                label=f"c = {result.cascade}",
            )
        axes.set_title(f"outliers served, each layer at A{bits} range")
        axes.legend(fontsize=8, loc="lower right")
    axes.set(xlabel="theory: 1 - (1 - p)^c, p the layer's zero rate", ylabel="measured coverage", xlim=(0, 1.03), ylim=(0, 1.03))
    axes.grid(alpha=0.25)
