"""Read what synthesis needs to know of a Liberty file: cells, pins, functions, delay and power tables.

Only the cells asked for are parsed, so that a library of 13 MB takes well under a second.
Units inside: picoseconds, femtofarads, square micrometres (the library's area unit), femtojoules.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from overq.errors import InputError

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[A-Za-z0-9_.+\-*!&|^\'\[\]:%]+|[{}();,]')
_TIME = {"1ns": 1e3, "100ps": 100.0, "10ps": 10.0, "1ps": 1.0}
_CAPACITANCE = {"ff": 1.0, "pf": 1e3}
SETUP_SLEW = 20.0  # ps, of clock and data, where the setup time is read


@dataclass
class Group:
    """`name (args) { attributes and groups }`."""

    name: str
    args: list[str]
    attributes: dict[str, list[str]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def first(self, name: str, default: str = "") -> str:
        return self.attributes.get(name, [default])[0]

    def named(self, name: str) -> list[Group]:
        return [group for group in self.groups if group.name == name]


@dataclass(frozen=True)
class Table:
    """A lookup table over (input slew ps, load fF), bilinear, extrapolated at the edges. One axis may be missing."""

    slews: list[float]
    loads: list[float]
    values: list[list[float]]

    def at(self, slew: float, load: float) -> float:
        i, x = _place(self.slews, slew)
        j, y = _place(self.loads, load)
        rows = [self.values[i], self.values[min(i + 1, len(self.values) - 1)]]
        low, high = (row[j] + y * (row[min(j + 1, len(row) - 1)] - row[j]) for row in rows)
        return low + x * (high - low)


@dataclass(frozen=True)
class Arc:
    """Delay from one input to one output: for each output edge, the input edges that cause it, delay and slew tables."""

    source: str
    causes: dict[str, tuple[str, ...]]
    delay: dict[str, Table]
    slew: dict[str, Table]


@dataclass(frozen=True)
class Pin:
    """capacitance in fF; function is empty for inputs; energy is the mean internal energy of one output edge (fJ by slew, load)."""

    name: str
    direction: str
    capacitance: float
    function: str
    arcs: tuple[Arc, ...]
    energy: tuple[Table, ...]


@dataclass(frozen=True)
class Cell:
    """One library cell. For flip-flops: clock pin, data (a function of pins and `state`, the inner value), setup in ps."""

    name: str
    area: float
    leakage: float
    pins: dict[str, Pin]
    clock: str
    data: str
    state: str
    setup: float

    @property
    def is_flip_flop(self) -> bool:
        return bool(self.clock)

    @property
    def data_pins(self) -> list[str]:
        """Input pins that the next state depends on."""
        return [pin.name for pin in self.inputs if re.search(rf"\b{re.escape(pin.name)}\b", self.data)]

    @property
    def inputs(self) -> list[Pin]:
        return [pin for pin in self.pins.values() if pin.direction == "input"]

    @property
    def outputs(self) -> list[Pin]:
        return [pin for pin in self.pins.values() if pin.direction == "output"]


class Library:
    """A Liberty file; cells are parsed when asked for."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise InputError(f"cannot read the Liberty file {path}: {error.strerror}") from error
        found = re.search(r"\blibrary\s*\(\s*\"?([^\s\")]+)", self.text)
        starts = [(m.start(), m.group(1)) for m in re.finditer(r"^\s*cell\s*\(\s*\"?([^\s\")]+)\"?\s*\)\s*\{", self.text, re.M)]
        if not found or not starts:
            raise InputError(f"{path} is no Liberty file: it has no library or no cells")
        self.name = found.group(1)
        bounds = [start for start, _ in starts[1:]] + [len(self.text)]
        self._spans = {name: (start, end) for (start, name), end in zip(starts, bounds, strict=True)}
        self._cells: dict[str, Cell] = {}
        header = self.text[: starts[0][0]]
        self.time = _TIME.get(_attribute(header, "time_unit"), 1e3)
        unit = re.search(r"capacitive_load_unit\s*\(\s*([\d.eE+-]+)\s*,\s*\"?(\w+)", header)
        self.capacitance = float(unit.group(1)) * _CAPACITANCE.get(unit.group(2).lower(), 1.0) if unit else 1e3
        volts = re.search(r"^\s*(?:nom_voltage|voltage)\s*:\s*\"?([\d.]+)", header, re.M)
        self.voltage = float(volts.group(1)) if volts else 1.0
        template = r"lut?_(?:table_)?template\s*\(\s*\"?(\w+)\"?\s*\)\s*\{\s*variable_1\s*:\s*\"?total_output_net"
        self._load_first = {m.group(1) for m in re.finditer(template, header)}

    @property
    def names(self) -> list[str]:
        return list(self._spans)

    def cell(self, name: str) -> Cell:
        """Parse one cell."""
        if name not in self._cells:
            if name not in self._spans:
                raise InputError(f"{self.path} has no cell {name}")
            start, end = self._spans[name]
            self._cells[name] = self._build(_parse(self.text[start:end]))
        return self._cells[name]

    @cached_property
    def full_adder(self) -> tuple[str, tuple[str, str, str], str, str] | None:
        """(cell, inputs, sum output, carry output) of the smallest full adder, found by its truth tables; None without one."""
        found = []
        for name, (start, end) in self._spans.items():
            text = self.text[start:end]
            if text.count("function") < 2 or re.search(r"\b(ff|latch|statetable)\s*\(", text):
                continue
            cell = self.cell(name)
            outputs = [pin for pin in cell.outputs if pin.function]
            if len(outputs) != 2 or len(cell.inputs) != 3:
                continue
            names = tuple(pin.name for pin in cell.inputs)
            rows = [dict(zip(names, (bool(i & 1), bool(i & 2), bool(i & 4)), strict=True)) for i in range(8)]
            tables = {pin.name: [bool(evaluate(pin.function, row)) for row in rows] for pin in outputs}
            total = [p for p, table in tables.items() if table == [bin(i).count("1") % 2 == 1 for i in range(8)]]
            carry = [p for p, table in tables.items() if table == [bin(i).count("1") >= 2 for i in range(8)]]
            if total and carry:
                found.append((cell.area, (name, (names[0], names[1], names[2]), total[0], carry[0])))
        return min(found)[1] if found else None

    # Building ------------------------------------------------------------------------------------------

    def _build(self, group: Group) -> Cell:
        flip_flops = group.named("ff")
        clock = data = state = ""
        if flip_flops:
            clock, data = flip_flops[0].first("clocked_on"), flip_flops[0].first("next_state")
            state = flip_flops[0].args[0]
        pins = {pin.args[0]: self._pin(pin) for pin in group.named("pin")}
        setup = 0.0
        for pin in group.named("pin"):
            for timing in pin.named("timing"):
                if timing.first("timing_type") == "setup_rising" and re.search(rf"\b{re.escape(pin.args[0])}\b", data):
                    wanted = [t for t in timing.groups if t.name in ("rise_constraint", "fall_constraint")]
                    tables = [self._table(t, self.time, second=self.time) for t in wanted]
                    setup = max([setup, *(table.at(SETUP_SLEW, SETUP_SLEW) for table in tables)])
        area, leakage = float(group.first("area", "0")), float(group.first("cell_leakage_power", "0"))
        return Cell(group.args[0], area, leakage, pins, clock, data, state, setup)

    def _pin(self, group: Group) -> Pin:
        arcs = []
        for timing in group.named("timing"):
            if timing.first("timing_type", "combinational") not in ("combinational", "rising_edge", "falling_edge"):
                continue
            delay, slew = {}, {}
            for table in timing.groups:
                edge = "rise" if "rise" in table.name else "fall"
                if table.name in ("cell_rise", "cell_fall"):
                    delay[edge] = self._table(table, self.time)
                elif table.name in ("rise_transition", "fall_transition"):
                    slew[edge] = self._table(table, self.time)
            if delay:
                arcs.append(Arc(timing.first("related_pin"), _causes(timing), delay, slew))
        energy = []
        for power in group.named("internal_power"):
            energy += [self._table(t, self.capacitance) for t in power.groups if t.name in ("rise_power", "fall_power")]
        return Pin(
            group.args[0],
            group.first("direction"),
            float(group.first("capacitance", "0")) * self.capacitance,
            group.first("function"),
            tuple(arcs),
            tuple(energy),
        )

    def _table(self, group: Group, scale: float, second: float | None = None) -> Table:
        """Values times `scale`; the second axis is a load unless its unit is given."""

        def numbers(text: str) -> list[float]:
            return [float(x) for x in re.split(r"[,\s]+", text.strip()) if x]

        slews = numbers(group.first("index_1", "0"))
        loads = numbers(group.first("index_2", "0"))
        flat = [x for row in group.attributes.get("values", ["0"]) for x in numbers(row.replace("\\", " "))]
        values = [flat[i * len(loads) : (i + 1) * len(loads)] for i in range(len(slews))]
        if group.args and group.args[0] in self._load_first:
            slews, loads, values = loads, slews, [list(row) for row in zip(*values, strict=True)]
        unit = self.capacitance if second is None else second
        return Table([x * self.time for x in slews], [x * unit for x in loads], [[x * scale for x in row] for row in values])


def evaluate(function: str, values: dict[str, bool]) -> bool:
    """A Liberty function of named pins."""
    return bool(eval(python_expression(function), {"__builtins__": {}}, {name: int(value) for name, value in values.items()}) & 1)


def python_expression(function: str) -> str:
    """The same in Python's & | ^ ~ on integers, of which bit 0 counts; `!`, postfix `'`, `*`, `+` and juxtaposition are understood."""
    text = re.sub(r"(\w+|\([^()]*\))\s*'", r"!\1", function)
    text = text.replace("*", "&").replace("+", "|").replace("!", "~")
    text = re.sub(r"(?<=[\w)])\s+(?=[\w~(])", " & ", text)
    if not re.fullmatch(r"[\w\s&|^~()]+", text):
        raise InputError(f"cannot read the Liberty function {function!r}")
    return text


def _causes(timing: Group) -> dict[str, tuple[str, ...]]:
    kind = timing.first("timing_type", "combinational")
    if kind != "combinational":
        return {"rise": (kind[: kind.index("_")],), "fall": (kind[: kind.index("_")],)}
    unate: dict[str, dict[str, tuple[str, ...]]] = {
        "positive_unate": {"rise": ("rise",), "fall": ("fall",)},
        "negative_unate": {"rise": ("fall",), "fall": ("rise",)},
    }
    return unate.get(timing.first("timing_sense"), {"rise": ("rise", "fall"), "fall": ("rise", "fall")})


def _attribute(text: str, name: str) -> str:
    found = re.search(rf"^\s*{name}\s*:\s*\"?([^\";]+)", text, re.M)
    return found.group(1).strip() if found else ""


def _place(axis: list[float], value: float) -> tuple[int, float]:
    """Index of the interval and position in it."""
    if len(axis) == 1:
        return 0, 0.0
    i = min(max(bisect.bisect_right(axis, value) - 1, 0), len(axis) - 2)
    return i, (value - axis[i]) / (axis[i + 1] - axis[i])


def _parse(text: str) -> Group:
    tokens = _TOKEN.findall(re.sub(r"/\*.*?\*/", " ", text, flags=re.S).replace(":", " : "))
    group, _ = _group(tokens, 0)
    return group


def _group(tokens: list[str], i: int) -> tuple[Group, int]:
    """A group whose name is tokens[i]."""
    name, args = tokens[i], []
    i += 2
    while tokens[i] != ")":
        if tokens[i] != ",":
            args.append(tokens[i].strip('"'))
        i += 1
    made = Group(name, args)
    i += 2  # ) {
    while i < len(tokens) and tokens[i] != "}":
        if tokens[i] == ";":
            i += 1
        elif tokens[i + 1] == ":":
            end = i + 2
            while tokens[end] not in (";", "}") and end - i < 8:
                end += 1
            made.attributes.setdefault(tokens[i], []).append(" ".join(t.strip('"') for t in tokens[i + 2 : end]))
            i = end
        else:
            close = i + 1
            while tokens[close] != ")":
                close += 1
            if close + 1 < len(tokens) and tokens[close + 1] == "{":
                child, i = _group(tokens, i)
                made.groups.append(child)
            else:
                made.attributes[tokens[i]] = [t.strip('"') for t in tokens[i + 2 : close] if t not in (",", "\\")]
                i = close + 1
    return made, i + 1
