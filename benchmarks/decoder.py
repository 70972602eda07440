"""The table of decoder layers in docs/language.md, made anew: python benchmarks/decoder.py

Cycles and DRAM traffic of one layer, by `overq.sim.memory` as `overq shapes --decoder` prints them: weights of 8 bits, a step for each
token, keys and values in the cache in the format.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from overq.sim.memory import Memory, Plan, cost
from overq.sim.rates import shares
from overq.sim.workload import Decoder
from overq.spec import ArrayConfig, Format

PAGE = Path(__file__).parents[1] / "docs" / "language.md"
BEGIN, END = "<!-- begin decoder -->", "<!-- end decoder -->"
FORMATS = (*(Format.plain(bits, True) for bits in (4, 5, 6, 8)), Format(4, 8, 3, 3, "largest", True, evict=2))
LAYERS = {  # name -> (sizes, side of the array, bytes of DRAM a cycle)
    "SmolLM2-135M's": (Decoder(1, 576, 9, 3, 1536), 64, 32.0),
    "Llama-3-8B's": (Decoder(1, 4096, 32, 8, 14336), 128, 64.0),
}
PREFILL, CACHED = 512, 4096  # tokens


def rows() -> Iterator[list[str]]:
    for name, (decoder, side, bandwidth) in LAYERS.items():
        memory = Memory(2**18, 2**18, 2**18, bandwidth)
        for fmt in FORMATS:
            machine = ArrayConfig(fmt, 8, side, side, double_buffered=True, segments=True)
            cells = [f"{name}, {side} × {side}: {fmt.label}"]
            for tokens, cached in ((PREFILL, 0), (1, CACHED)):
                work = decoder.work(tokens, cached)
                found = [
                    cost(layer, machine, memory, shares(machine.tile, 0.5, 0.02, layer.channels), Plan(dynamic=True)) for layer in work
                ]
                cells += [f"{sum(layer.cycles for layer in found):,}", _mb(sum(layer.dram for layer in found))]
                if cached:
                    cells.append(_mb(sum(f.dram_weights for f, layer in zip(found, work, strict=True) if layer.cache)))
            yield cells


def _mb(bits: float) -> str:
    return f"{bits / 8e6:.2f}"


def made(text: str) -> str:
    """The page with its table made anew."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE.name} has no place for the table: {BEGIN} and {END}")
    head = ["one layer", f"prefill of {PREFILL}: cycles", "DRAM MB", f"a token behind {CACHED:,}: cycles", "DRAM MB", "of it the cache"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows()]
    return f"{before}{begin}\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
