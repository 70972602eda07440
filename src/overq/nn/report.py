"""What is known of each layer of a quantized model, and the summary that shows it."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from overq.errors import ToolError
from overq.nn.shares import Share, in_words, share
from overq.spec import Counts, Format, expected_coverage
from overq.text import add_row, console, visible


@dataclass(frozen=True)
class LayerReport:
    """One quantized layer, as calibration saw its input.

    name         dotted name in the model
    kind         the float layer's class; "function" of a product with a parameter; of a factor its role, such as "query"
    format       as fitted: signedness found, plain where no lane has a neighbour; None of a method without a number format of ours
    weight_bits  bits of a weight; 0 of a factor of a product of two activations
    step         Δ, in units of the input; where each vector or group has its own, in units of its greatest magnitude or rms; None where
                 the method has none
    counts       zeros, outliers and served values of the sampled channel vectors
    sqnr         signal-to-quantization-noise of the sample, in dB; inf where nothing was lost
    note         what a user should know, e.g. why it fell back to plain; empty otherwise
    macs         multiply-accumulates of the samples that `Summary.shares` counted; 0 where none were
    method       of the input, in words
    tensor       the first of several quantized layers that read the same tensor, which is quantized once; empty where only this one does
    each         what has a step of its own, in words; empty where the tensor has one, or the method has a format of its own
    """

    name: str
    kind: str
    format: Format | None
    weight_bits: int
    step: float | None
    counts: Counts
    sqnr: float
    note: str = ""
    macs: int = 0
    method: str = ""
    tensor: str = ""
    each: str = ""

    @property
    def bits_in_words(self) -> str:
        """As in "A4 W8", or "OliVe A4 W8"."""
        activations = self.method if self.format is None else f"A{self.format.bits}"
        return f"{activations} W{self.weight_bits}" if self.weight_bits else activations

    @property
    def mode(self) -> str:
        """What the format does; of a method without one of ours, the method."""
        return self.method if self.format is None else ", ".join(filter(None, (self.format.label, self.each)))

    @property
    def coverage(self) -> float:
        """Served outliers / outliers; NaN without outliers."""
        return self.counts.coverage

    @property
    def expected_coverage(self) -> float:
        """1 - (1-p)^c with p the zero rate; 0 where range overwrite is off."""
        return expected_coverage(self.counts.zero_rate, self.format.cascade) if self.format and self.format.range_on else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an infinite or undefined ratio becomes a string."""
        return asdict(self) | {"sqnr": self.sqnr if math.isfinite(self.sqnr) else str(self.sqnr)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LayerReport:
        """The inverse of `to_json`."""
        fmt = None if data["format"] is None else Format.from_json(data["format"])
        return cls(**{**data, "format": fmt, "counts": Counts(**data["counts"]), "sqnr": float(data["sqnr"])})


@dataclass(frozen=True)
class Summary:
    """Per-layer reports in the order the layers run, and what stayed in float with the reason. `print` it for a table.

    shares  where the model multiplies: quantized at which bits, and what the rest is; empty where no sample ran
    notes   what a user should know of how the samples were run
    """

    layers: tuple[LayerReport, ...]
    left_float: tuple[tuple[str, str], ...] = ()
    shares: tuple[Share, ...] = ()
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def quantized_share(self) -> float:
        """Multiply-accumulates of quantized layers / all, 0 to 1; NaN where none were counted."""
        return share(self.shares)

    def lines(self) -> Iterator[str]:
        """What stands below the table, in words."""
        yield in_words(self.shares)
        yield from (f"note: {note}" for note in self.notes)
        yield from (f"float: {name}: {reason}" for name, reason in self.left_float)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One flat row for each quantized layer, numbers as numbers."""
        total = sum(part.macs for part in self.shares)
        for r in self.layers:
            bits, signed = (None, None) if r.format is None else (r.format.bits, r.format.signed)
            yield {
                "layer": r.name, "kind": r.kind, "activation_bits": bits, "signed": signed, "weight_bits": r.weight_bits,
                "mode": r.mode, "step": r.step, "zero_rate": r.counts.zero_rate, "outlier_rate": r.counts.outlier_rate,
                "served": r.counts.served, "coverage": r.coverage, "expected_coverage": r.expected_coverage, "sqnr_db": r.sqnr,
                "macs_share": r.macs / total if total else float("nan"), "note": r.note,
            }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, everything; `from_dict` reads it."""
        return {
            "layers": [report.to_json() for report in self.layers],
            "float": [list(pair) for pair in self.left_float],
            "shares": [part.to_json() for part in self.shares],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Summary:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError where it is none."""
        left = tuple((str(name), str(reason)) for name, reason in data["float"])
        layers = tuple(LayerReport.from_json(entry) for entry in data["layers"])
        return cls(layers, left, tuple(Share.from_json(entry) for entry in data["shares"]), tuple(str(note) for note in data["notes"]))

    def to_pandas(self) -> Any:
        """A pandas DataFrame of `rows`. Raises ToolError where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise ToolError("Summary.to_pandas needs pandas, which is not installed: pip install pandas; `rows` needs nothing") from None
        return pandas.DataFrame(list(self.rows()))

    def _repr_html_(self) -> str:
        """For notebooks: the same table and lines, everything in them as text."""
        table = self.table()
        head = "".join(f"<th>{_as_text(column.header)}</th>" for column in table.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{_as_text(value)}</td>" for value in values) + "</tr>"
            for values in zip(*(list(column.cells) for column in table.columns), strict=True)
        )
        below = "".join(f"<br>{_as_text(line)}" for line in self.lines())
        return f"<table><caption>{_as_text(table.title)}</caption><tr>{head}</tr>{body}</table><p>{below.removeprefix('<br>')}</p>"

    def table(self) -> Table:
        """A rich table, one row per layer."""
        total = sum(part.macs for part in self.shares)
        table = Table(title="quantized layers (rates on the calibration sample)")
        for heading in (
            "layer",
            "kind",
            "A",
            "W",
            "MACs",
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
            ranged = r.format is not None and r.format.range_on
            covered = f"{r.coverage:.3f}" if ranged and c.outliers else "-"
            expected = f"{r.expected_coverage:.3f}" if ranged else "-"
            width = "-" if r.format is None else f"{'s' if r.format.signed else 'u'}{r.format.bits}"
            outliers = ("-", "-") if r.format is None else (f"{c.outlier_rate:.4f}", str(c.served))
            add_row(
                table, r.name, r.kind, width, str(r.weight_bits or "-"), f"{100 * r.macs / total:.1f} %" if total else "-", r.mode,
                "-" if r.step is None else f"{r.step:.4g}", f"{c.zero_rate:.3f}", *outliers, covered, expected, f"{r.sqnr:.1f}", r.note,
            )  # fmt: skip
        return table

    def __str__(self) -> str:
        out = io.StringIO()
        screen = console(file=out, width=160)
        screen.print(self.table())
        for line in self.lines():
            screen.print(visible(line))
        return out.getvalue()


def _as_text(value: object) -> str:
    """HTML that shows it and does nothing."""
    return html.escape(visible(value))
