"""A library written anew, as Yosys and ABC need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from overq.eda import function
from overq.eda.liberty_cell import TABLES, pin_names, untimed
from overq.eda.liberty_text import Group, write

# What other tools need of each kind of group, and which of it are functions.
_FUNCTIONS = ("function", "three_state", "clocked_on", "next_state", "clear", "preset", "enable", "data_in")
_KEPT = (
    *("delay_model", "time_unit", "voltage_unit", "nom_voltage", "default_operating_conditions", "voltage", "default_input_pin_cap"),
    *("area", "dont_use", "direction", "capacitance", "rise_capacitance", "fall_capacitance", "clock"),
    *("related_pin", "timing_sense", "timing_type", "variable_1", "variable_2", "variable_3"),
)
_KEPT_LISTS = ("capacitive_load_unit", "index_1", "index_2", "index_3", "values")


def _only(group: Group, keep: Sequence[str]) -> Group:
    simple = {name: values for name, values in group.simple.items() if name in _KEPT}
    for name in _FUNCTIONS:
        if name in group.simple:
            simple[name] = [function.expression(group.first(name), invert="!")]
    lists = {name: values for name, values in group.complex.items() if name in _KEPT_LISTS}
    groups = [_only(one, keep) for child in group.groups if child.name in keep for one in _one_by_one(child)]
    return replace(group, simple=simple, complex=lists, groups=groups)


def _one_by_one(group: Group) -> list[Group]:
    """A group of several pins as one of each."""
    return [replace(group, args=[name]) for name in pin_names(group.args)] if group.name == "pin" else [group]


def plain_text(header: Group, cells: Sequence[Group], beside: Sequence[Group]) -> str:
    """The cells, and the groups that stand beside them.

    ABC leaves out cells without delays: unless all gates have some, none are passed on.
    """
    keep = ["pin", "ff", "latch", "statetable", "bus", "bundle"]
    if not any(untimed(cell) for cell in cells):
        keep += ["timing", *TABLES]
    library = _only(header, ())
    library.groups = [*(_only(group, ()) for group in beside), *(_only(cell, keep) for cell in cells)]
    return write(library) + "\n"
