"""Synthesize a block in several ways and report area, flip-flops and the critical path.

Every block goes through the same recipes; which one is reported is chosen by the same rule for all:
    smallest      the least area of all recipes
    no slower     the least area of those whose critical path is no longer than a given one
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from overq.eda import yosys
from overq.eda.liberty import Library
from overq.eda.netlist import Netlist
from overq.errors import ToolError

# ABC scripts: how the logic is restructured, and whether it is mapped for delay (default, map) or area.
SCRIPTS = {
    "default": "",
    "map": "+strash;ifraig;scorr;dc2;dch,-f;map,-B,0.9;topo",
    "map-area": "+strash;ifraig;scorr;dc2;dch,-f;map,-a;topo",
    "amap": "+strash;ifraig;scorr;dc2;dch,-f;amap;topo",
    "resyn": "+strash;dch;dc2;dc2;dch,-f;amap;topo",
    "compress": "+strash;balance;rewrite;refactor;balance;rewrite,-z;balance;refactor,-z;rewrite,-z;balance;dch,-f;amap;topo",
}
QUICK = "quick"  # Yosys' own pass through ABC left out, whose equivalence checks take most of the time of a multiplier
SCRIPT_OF = SCRIPTS | {QUICK: "+strash;dc2;amap;topo"}
WITH_ADDERS = ("amap", "resyn", "compress")
SPECIAL_CELLS = ("*lpflow*",)  # isolation cells of power domains: gates by function, but not for logic
KEEP_PRODUCT, RELEASE = "setattr -set keep 1 w:product", "setattr -unset keep w:*"


@dataclass(frozen=True)
class Recipe:
    """One way through Yosys and ABC.

    script    name in SCRIPTS, or QUICK
    adders    which full adders become the library's full-adder cell: "" none, else a name in ADDERS
    apart     the product is computed before it is added, instead of one carry-save tree for both
    """

    script: str
    adders: str
    apart: bool

    @property
    def name(self) -> str:
        kind = f"-{ADDERS[self.adders][0]}" if self.adders else ""
        return f"{self.script}{kind}{'-apart' if self.apart else ''}"

    @property
    def before(self) -> tuple[str, bool, bool]:
        """What decides the steps before ABC: adders, apart, and whether Yosys' own pass through ABC is left out."""
        return self.adders, self.apart, self.script == QUICK


# Kind -> (word in a recipe's name, which full adders). In a part of them only where the product is apart: else there is no such part.
ADDERS = {
    "all": ("adders", "t:$fa"),
    "product": ("adders-in-product", "w:product %ci* t:$fa %i"),
    "sum": ("adders-in-sum", "t:$fa w:product %ci* %d"),
}
RECIPES = (
    *(Recipe(script, "", apart) for script in SCRIPTS for apart in (False, True)),
    *(Recipe(script, "all", apart) for script in WITH_ADDERS for apart in (False, True)),
    *(Recipe(script, part, True) for part in ("product", "sum") for script in WITH_ADDERS),
)
FAST = tuple(Recipe("compress", "all", apart) for apart in (False, True))  # one script: seconds instead of minutes


@dataclass(frozen=True)
class Point:
    """One synthesis result. area in the library's unit (µm²) or transistors; period in ps, 0 where it is not known: without a library, or
    where a cell of it has no delay tables."""

    block: str
    recipe: str
    area: float
    flip_flops: int
    flip_flop_area: float
    cells: int
    period: float
    depth: int


class Mapped(NamedTuple):
    """A result with its netlist, as Verilog and, where there is a library, as an object."""

    point: Point
    verilog: str
    netlist: Netlist | None


def synthesize(name: str, text: str, library: Library | None, recipes: Sequence[Recipe] = RECIPES) -> list[Point]:
    """Every recipe for one module, given its name and its Verilog."""
    return [one.point for one in netlists(name, text, library, recipes)]


def smallest(points: Sequence[Point], period: float | None = None) -> Point:
    """The least area, or the least whose critical path is at most `period`; without one, the fastest."""
    fits = [p for p in points if period is None or p.period <= period + 0.5]
    return min(fits, key=lambda p: p.area) if fits else min(points, key=lambda p: p.period)


def netlists(name: str, text: str, library: Library | None, recipes: Sequence[Recipe] = RECIPES, beside: str = "") -> list[Mapped]:
    """One for each recipe.

    beside   modules that `text` instantiates; they stay as they are and are not counted
    Results are cached as `yosys.remembered` does.
    """
    if library is None:
        return [_transistors(name, text, beside)]
    adder = library.full_adder
    if not adder:  # then the recipes without; where all have them, those less their adders
        recipes = [r for r in recipes if not r.adders] or list(dict.fromkeys(replace(r, adders="") for r in recipes))
    script = ["read_verilog -lib beside.v"] if beside else []
    script += ["read_verilog design.v", f"hierarchy -check -top {name}", "design -save start"]
    for before in dict.fromkeys(recipe.before for recipe in recipes):
        script += ["design -load start", *_before_abc(*before, name, library), "design -save mapped"]
        for recipe in (r for r in recipes if r.before == before):
            script += ["design -load mapped", *_abc(recipe, library)]
            script += [f"write_json {recipe.name}.json", f"write_verilog -noattr {recipe.name}.v"]
    inputs: dict[str, str] = {"design.v": text, **library.plain_texts}
    if beside:
        inputs["beside.v"] = beside
    if adder:
        inputs["adder.v"] = _adder_map(adder)
    outputs = [f"{recipe.name}.{kind}" for recipe in recipes for kind in ("json", "v")]
    files = _cached("\n".join(script) + "\n", inputs, outputs)
    results = []
    for recipe in recipes:
        mapped = Netlist(files[f"{recipe.name}.json"], name, library)
        timing = mapped.timing()
        registers = mapped.flip_flops
        point = Point(
            name,
            recipe.name,
            round(mapped.area, 3),
            len(registers),
            round(mapped.flip_flop_area, 3),
            len(mapped.instances),
            round(timing.period, 1) if timing else 0.0,
            timing.depth if timing else 0,
        )
        results.append(Mapped(point, files[f"{recipe.name}.v"], mapped))
    return results


def mapped(name: str, text: str, library: Library, recipe: Recipe) -> tuple[Netlist, str]:
    """One recipe's netlist as an object and as Verilog of library cells."""
    adder = library.full_adder
    script = ["read_verilog design.v", f"hierarchy -check -top {name}"]
    script += [*_before_abc(*recipe.before, name, library), *_abc(recipe, library)]
    script += ["write_json out.json", "write_verilog -noattr out.v"]
    inputs: dict[str, str] = {"design.v": text, **library.plain_texts}
    if adder:
        inputs["adder.v"] = _adder_map(adder)
    files = _cached("\n".join(script) + "\n", inputs, ["out.json", "out.v"])
    return Netlist(files["out.json"], name, library), files["out.v"]


def _before_abc(adders: str, apart: bool, quick: bool, name: str, library: Library) -> list[str]:
    commands = [KEEP_PRODUCT] if apart else []
    commands.append(f"synth -flatten{' -noabc' * quick} -top {name}")
    if adders and library.full_adder:
        commands += ["extract_fa -fa", f"techmap -map adder.v {ADDERS[adders][1]}", "techmap t:$fa", "opt", "opt_clean"]
    return [*commands, f"dfflibmap {_flags(library)}"]


def _flags(library: Library) -> str:
    return " ".join(f"-liberty {name}" for name in library.plain_texts)


def _abc(recipe: Recipe, library: Library) -> list[str]:
    script = SCRIPT_OF[recipe.script]
    avoid = [f"-dont_use {pattern}" for pattern in SPECIAL_CELLS if any(pattern.strip("*") in cell for cell in library.names)]
    abc = " ".join([f"abc {_flags(library)}", *avoid, *([f"-script {script}"] if script else [])])
    return [abc, RELEASE, "opt_clean -purge"]


def _adder_map(adder: tuple[str, tuple[str, str, str], str, str]) -> str:
    cell, (a, b, c), total, carry = adder
    return f"""
(* techmap_celltype = "$fa" *)
module overq_full_adder(input [WIDTH-1:0] A, B, C, output [WIDTH-1:0] X, Y);
  parameter WIDTH = 1;
  genvar i;
  generate for (i = 0; i < WIDTH; i = i + 1) begin : bits
    {cell} cell_i(.{a}(A[i]), .{b}(B[i]), .{c}(C[i]), .{total}(Y[i]), .{carry}(X[i]));
  end endgenerate
endmodule
"""


def _transistors(name: str, text: str, beside: str) -> Mapped:
    """Yosys' own count of CMOS transistors for gates of up to four inputs; flip-flops at 24 transistors each. The product is computed
    before it is added: one carry-save tree of all rows comes out larger here."""
    commands = ["read_verilog -lib beside.v", "read_verilog design.v", KEEP_PRODUCT, f"synth -flatten -top {name}", "abc -g cmos4"]
    script = "\n".join(
        [*commands, RELEASE, "opt_clean -purge", "stat -tech cmos", "write_verilog -noattr out.v", "write_json out.json", ""]
    )
    key = _cached(script, {"design.v": text, "beside.v": beside}, ["out.v", "out.json"], log="stat.txt")
    found = re.search(r"Estimated number of transistors:\s*(\d+)", key["stat.txt"])
    if not found:
        raise ToolError("Yosys gave no transistor estimate")
    cells = json.loads(key["out.json"])["modules"][name]["cells"].values()
    registers = sum("DFF" in cell["type"] for cell in cells)
    return Mapped(Point(name, "transistors", float(found.group(1)), registers, 0.0, len(cells), 0.0, 0), key["out.v"], None)


def _cached(script: str, inputs: dict[str, str], outputs: list[str], log: str = "") -> dict[str, str]:
    try:
        return yosys.remembered(script, inputs, outputs, log)
    except ToolError as error:
        if "ABC output file" in str(error):
            raise ToolError("ABC cannot map to this library; it needs at least a buffer, an inverter and a NAND or NOR gate") from error
        raise
