"""Our timing beside OpenSTA's, on an element in the cells of a real library."""

import pytest

from overq.eda import opensta
from overq.eda.liberty import Library
from overq.eda.synth import Recipe, mapped
from overq.errors import ToolError
from overq.rtl import ProcessingElement, verilog
from overq.spec import ArrayConfig, Format
from shared_data import FOLDER

pytestmark = pytest.mark.yosys
RECIPES = (Recipe("compress", "all", True), Recipe("compress", "", True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nangate45_typical", "sky130hd_typical"])
def test_timing_is_within_a_percent_of_opensta(name):
    path = FOLDER / "cells" / f"{name}.lib"
    if not path.exists() or not opensta.available():
        pytest.skip(f"needs {path} and OpenSTA (Debian: opensta)")
    library = Library(path)
    for fmt in (Format.plain(4), Format(4, 4, 1, 1)):
        module, text = verilog.named(ProcessingElement(config=ArrayConfig(fmt, 8, 16, sum_bits=24)))
        for recipe in RECIPES:
            netlist, mapped_text = mapped(module, text, library, recipe)
            ours, theirs = netlist.timing(), opensta.period(netlist, mapped_text, module, library)
            assert ours is not None
            assert abs(ours.period / theirs - 1) < 0.01, (fmt.label, recipe.name, ours.period, theirs)


def test_without_opensta_one_line_says_so(monkeypatch):
    monkeypatch.setattr(opensta, "PROGRAM", "no-such-program")
    with pytest.raises(ToolError, match=r"^no-such-program not found on the PATH"):
        opensta.period(None, "", "m", None)
