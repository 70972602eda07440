"""Synthesized netlists are the RTL they were made of: every output of the element, for all inputs and all states.

In each library of the data folder, and in those that OVERQ_LIBERTY names: `first.lib:part_1.lib,part_2.lib`, files of one library with
commas between.
"""

import os
import re
from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="the rtl extra (amaranth) is not installed")

from overq.eda import yosys
from overq.eda.liberty import Library
from overq.eda.synth import Recipe, netlists
from overq.errors import ToolError
from overq.rtl import ProcessingElement, verilog
from overq.rtl.gates import cell_model
from overq.spec import ArrayConfig, Format
from shared_data import FOLDER

pytestmark = pytest.mark.yosys
GIVEN = [tuple(map(Path, names.split(","))) for names in os.environ.get("OVERQ_LIBERTY", "").split(":") if names]
LIBRARIES = [*((FOLDER / "cells" / f"{name}_typical.lib",) for name in ("nangate45", "sky130hd")), *GIVEN]
RECIPES = (Recipe("compress", "", True), Recipe("compress", "all", False))
SCRIPT = """
read_verilog gold.v
rename overq_element gold
read_verilog gate.v
rename overq_element gate
read_verilog cells.v
proc
opt_clean
miter -equiv -make_assert -flatten gold gate both
hierarchy -top both
sat -tempinduct -set-init-zero -verify -timeout 600 -prove-asserts both
"""


def prove(config, library, recipe, change=lambda text: text):
    """By induction: every register of the element is an output, so equal outputs are equal states."""
    name, text = verilog.named(ProcessingElement(config=config))
    (mapped,) = netlists(name, text, library, [recipe])
    netlist = mapped.verilog
    used = set(re.findall(r"^\s+(\w+) \S+ \($", netlist, re.M)) & set(library.names)
    cells = "".join(cell_model(library.cell(cell)) for cell in sorted(used))
    yosys.run(SCRIPT, {"gold.v": text, "gate.v": change(netlist), "cells.v": cells})


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("fmt", [Format.plain(4), Format(4, 4, 1, 1), Format(4, 4, 3, 3)], ids=lambda fmt: fmt.label)
@pytest.mark.parametrize("files", LIBRARIES, ids=lambda files: files[0].name)
def test_the_element_s_netlist_is_its_rtl(files, fmt, recipe):
    """With weights of 8 bits and sums of 16 rows."""
    if absent := [path for path in files if not path.exists()]:
        pytest.skip(f"no cell library at {absent[0]}")
    library = Library(list(files))
    if recipe.adders and not library.full_adder:
        pytest.skip(f"{library.name} has no full adder")
    prove(ArrayConfig(fmt, 8, 16), library, recipe)


@pytest.mark.slow
def test_the_solver_rejects_a_netlist_with_two_bits_swapped():
    path: Path = FOLDER / "cells" / "nangate45_typical.lib"
    if not path.exists():
        pytest.skip(f"no cell library at {path}")
    with pytest.raises(ToolError, match="proof did fail"):
        prove(ArrayConfig(Format(4, 4, 1, 1), 8, 16), Library(path), RECIPES[0], lambda text: text.replace("sum_in[3]", "sum_in[4]"))
