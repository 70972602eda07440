"""What share of a model's multiply-accumulates is quantized, at which bits, and what the rest is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from overq.nn.compute import Count, Work
from overq.text import visible


@dataclass(frozen=True)
class Share:
    """The multiply-accumulates of one kind.

    what       bits of a quantized layer ("A4 W8"), or what multiplies in float: "LSTM", "scaled_dot_product_attention", …
    quantized  whether both factors are
    macs       of the samples that were counted
    places     dotted names of the modules that ran them; "" is the model itself
    """

    what: str
    quantized: bool
    macs: int
    places: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "places": list(self.places)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Share:
        """The inverse of `to_json`."""
        share = cls(**{**data, "places": tuple(data["places"])})
        if not isinstance(share.macs, int) or not all(isinstance(text, str) for text in (share.what, *share.places)):
            raise ValueError(f"not a share of multiply-accumulates: {data!r}")
        return share


def shares(count: Count, quantized: dict[str, str], functions: dict[tuple[str, str], str] | None = None) -> tuple[Share, ...]:
    """The quantized kinds first, each group by size.

    quantized  name of every quantized layer -> its bits in words
    functions  (module, "") whose products of activations are all quantized, and ("", parameter) of a function's product, likewise
    """
    functions = functions or {}
    found: dict[tuple[str, bool], tuple[int, dict[str, None]]] = {}
    for work in count.work:
        inside = work.module in quantized and work.operation in ("convolution", "linear")
        called = functions.get(("", work.weight)) if work.weight else None
        if called is None and not work.weight and work.operation in ("matmul", "attention"):
            called = functions.get((work.module, ""))
        what = quantized[work.module] if inside else called or in_float(work)
        inside = inside or called is not None
        key = (what, inside)
        macs, places = found.get(key, (0, {}))
        found[key] = (macs + work.macs, places | {work.module: None})
    made = [Share(what, inside, macs, tuple(places)) for (what, inside), (macs, places) in found.items() if macs]
    return tuple(sorted(made, key=lambda share: (not share.quantized, -share.macs)))


def in_float(work: Work) -> str:
    """What multiplies there, in words."""
    owner = work.weight.rpartition(".")[0]
    if work.operation == "attention":
        return "scaled_dot_product_attention"
    if work.operation == "matmul":
        return "matmul of two activations (@, bmm, einsum)"
    if work.operation == "recurrent" or (work.weight and owner == work.module):
        return work.type
    if not work.weight and ("conv" in work.type.lower() or "linear" in work.type.lower()):
        return work.type  # its weight is computed: a parametrization, a quantizer of its own
    return f"{work.operation} called as a function"


def of_layer(count: Count | None, name: str) -> int:
    """Multiply-accumulates that a layer itself runs."""
    return sum(work.macs for work in count.work if work.module == name) if count else 0


def share(parts: Iterable[Share]) -> float:
    """Quantized / all; NaN where nothing was counted."""
    parts = list(parts)
    total = sum(part.macs for part in parts)
    return sum(part.macs for part in parts if part.quantized) / total if total else float("nan")


def in_words(parts: Sequence[Share]) -> str:
    """One line: the share quantized, its bits, and the rest with its places."""
    total = sum(part.macs for part in parts)
    if not total:
        return "multiply-accumulates were not counted: no sample ran"

    def percent(macs: int) -> str:
        value = 100 * macs / total
        return f"{value:.1f} %" if value >= 0.05 or not macs else "< 0.1 %"

    line = f"{percent(sum(p.macs for p in parts if p.quantized))} of the multiply-accumulates are quantized"
    if bits := [f"{p.what} {percent(p.macs)}" for p in parts if p.quantized]:
        line += f" ({', '.join(bits)})"
    if rest := [f"{p.what} {percent(p.macs)} ({_places(p.places)})" for p in parts if not p.quantized]:
        line += f"; in float: {', '.join(rest)}"
    return line


def _places(names: tuple[str, ...]) -> str:
    shown = ", ".join(visible(name) or "the model itself" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
