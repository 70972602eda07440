"""What a cell's group of a Liberty library says of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from overq.eda import function
from overq.eda.liberty_text import Group

TABLES = ("cell_rise", "cell_fall", "rise_transition", "fall_transition")


def untimed(cell: Group) -> bool:
    """A gate with an output that has a function of pins but not the four tables."""
    if cell.named("ff") or unusual(cell):
        return False
    for pin in cell.named("pin"):
        if function.names(pin.first("function", "0")):
            found = {table.name for timing in pin.named("timing") for table in timing.named(*TABLES)}
            if len(found) < len(TABLES):
                return True
    return False


def pin_names(texts: Sequence[str]) -> list[str]:
    """Pin names in arguments or one string."""
    return [name for text in texts for name in re.split(r"[\s,]+", text.strip()) if name]


def clock_of(text: str) -> tuple[str, bool]:
    """(pin, falling edge) of `clocked_on`; ("", …) where it is more than one pin."""
    if not text:
        return "", False
    pins = function.names(text)
    if len(pins) != 1:
        return "", False
    on, off = (function.evaluate(text, {pins[0]: value}) for value in (True, False))
    return (pins[0] if on != off else ""), off


WITH = "a flip-flop with "


def quiet_pins(ff: Group) -> tuple[tuple[str, bool], ...]:
    """The pins of clear and preset, each with the value at which it does nothing; none where more than one pin decides."""
    found = []
    for text in filter(None, (ff.first("clear"), ff.first("preset"))):
        pins = function.names(text)
        if len(pins) != 1:
            return ()
        found.append((pins[0], not function.evaluate(text, {pins[0]: True})))
    return tuple(found)


def unusual(group: Group) -> str:
    """What the cell has that a plain gate or flip-flop has not, in words; "" where there is nothing."""
    for name in ("latch", "latch_bank", "ff_bank", "statetable", "bus", "bundle"):
        if group.named(name):
            return f"a {name}"
    kinds = [name for ff in group.named("ff") for name in ("clear", "preset") if ff.first(name)]
    if kinds:
        return f"{WITH}{kinds[0]}"
    if any(pin.first("three_state") for pin in group.named("pin")):
        return "a three-state output"
    return ""


def causes_of(timing: Group) -> dict[str, tuple[str, ...]]:
    """Edge of the output -> the edges of the related pin that cause it."""
    kind = timing.first("timing_type", "combinational")
    if kind.endswith("_edge"):
        return {"rise": (kind[: kind.index("_")],), "fall": (kind[: kind.index("_")],)}
    unate: dict[str, dict[str, tuple[str, ...]]] = {
        "positive_unate": {"rise": ("rise",), "fall": ("fall",)},
        "negative_unate": {"rise": ("fall",), "fall": ("rise",)},
    }
    causes = unate.get(timing.first("timing_sense"), {"rise": ("rise", "fall"), "fall": ("rise", "fall")})
    edge = kind.removeprefix("combinational").strip("_")
    return {edge: causes[edge]} if edge else causes
