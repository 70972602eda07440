"""What is known of each layer of a quantized model, and the summary that shows it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from overq.spec import Counts, Format, expected_coverage
from overq.text import add_row, console, visible


@dataclass(frozen=True)
class LayerReport:
    """One quantized layer, as calibration saw its input.

    name         dotted name in the model
    kind         Conv1d, Conv2d or Linear
    format       as fitted: signedness found, plain where no lane has a neighbour
    weight_bits  bits of a weight
    step         Δ, in units of the input
    counts       zeros, outliers and served values of the sampled channel vectors
    sqnr         signal-to-quantization-noise of the sample, in dB; inf where nothing was lost
    note         what a user should know, e.g. why it fell back to plain; empty otherwise
    """

    name: str
    kind: str
    format: Format
    weight_bits: int
    step: float
    counts: Counts
    sqnr: float
    note: str = ""

    @property
    def coverage(self) -> float:
        """Served outliers / outliers; NaN without outliers."""
        return self.counts.coverage

    @property
    def expected_coverage(self) -> float:
        """1 - (1-p)^c with p the zero rate; 0 where range overwrite is off."""
        return expected_coverage(self.counts.zero_rate, self.format.cascade) if self.format.range_on else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an infinite or undefined ratio becomes a string."""
        return asdict(self) | {"sqnr": self.sqnr if math.isfinite(self.sqnr) else str(self.sqnr)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LayerReport:
        """The inverse of `to_json`."""
        return cls(**{**data, "format": Format(**data["format"]), "counts": Counts(**data["counts"]), "sqnr": float(data["sqnr"])})


@dataclass(frozen=True)
class Summary:
    """Per-layer reports in the order the layers run, and what stayed in float with the reason. `print` it for a table."""

    layers: tuple[LayerReport, ...]
    left_float: tuple[tuple[str, str], ...] = ()

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def table(self) -> Table:
        """A rich table, one row per layer."""
        table = Table(title="quantized layers (rates on the calibration sample)")
        for heading in (
            "layer",
            "kind",
            "A",
            "W",
            "mode",
            "step",
            "zeros",
            "outliers",
            "served",
            "coverage",
            "1-(1-p)^c",
            "SQNR dB",
            "note",
        ):
            table.add_column(heading, justify="left" if heading in ("layer", "kind", "mode", "note") else "right")
        for r in self.layers:
            c = r.counts
            covered = f"{r.coverage:.3f}" if r.format.range_on and c.outliers else "-"
            expected = f"{r.expected_coverage:.3f}" if r.format.range_on else "-"
            sign = "s" if r.format.signed else "u"
            add_row(
                table, r.name, r.kind, f"{sign}{r.format.bits}", str(r.weight_bits), mode(r.format), f"{r.step:.4g}",
                f"{c.zero_rate:.3f}", f"{c.outlier_rate:.4f}", str(c.served), covered, expected, f"{r.sqnr:.1f}", r.note,
            )  # fmt: skip
        return table

    def __str__(self) -> str:
        out = io.StringIO()
        screen = console(file=out, width=160)
        screen.print(self.table())
        for name, reason in self.left_float:
            screen.print(visible(f"float: {name}: {reason}"))
        return out.getvalue()


def mode(fmt: Format) -> str:
    """A short name of what a format does: plain, range c=4, range+precision c=2 largest, …"""
    if not fmt.modes:
        return "plain"
    return f"{'+'.join(fmt.modes)} c={fmt.cascade}" + (" largest" if fmt.policy == "largest" else "")
