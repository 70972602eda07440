"""What synthesis needs to know of a cell library: cells, pins, functions, delay and power tables.

Only the cells asked for are parsed, so that a library of 13 MB takes well under a second. Units inside: picoseconds, femtofarads, volts,
femtojoules, the library's area unit. A unit or voltage that the library does not give is refused when it is needed, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from overq.eda import function
from overq.eda.cells import Arc, Cell, Pin, Table
from overq.eda.liberty_cell import WITH, causes_of, clock_of, pin_names, quiet_pins, unusual
from overq.eda.liberty_plain import plain_text
from overq.eda.liberty_text import Group, Span, line_of, outline, parse, read, statements
from overq.errors import InputError

_SECONDS = {"s": 1e12, "ms": 1e9, "us": 1e6, "ns": 1e3, "ps": 1.0, "fs": 1e-3}
_FARADS = {"f": 1e15, "nf": 1e6, "pf": 1e3, "ff": 1.0}
_VOLTS = {"v": 1.0, "mv": 1e-3}
_WATTS = {"w": 1e9, "mw": 1e6, "uw": 1e3, "nw": 1.0, "pw": 1e-3}
_DELAYS = ("combinational", "combinational_rise", "combinational_fall", "rising_edge", "falling_edge")
_LOAD = "total_output_net_capacitance"
_FUNCTION, _HOLDS = re.compile(r"\bfunction\s*:"), re.compile(r"\b(ff|latch|statetable)\s*\(")
SETUP_SLEW = 20.0  # ps, of clock and data, where the setup time is read


class Library:
    """One or more Liberty files, read as one library; cells are parsed when asked for.

    path   a file or several; each has its own units, and all must have the same voltage
    """

    def __init__(self, path: Path | Sequence[Path]):
        self.files = [_File(one) for one in ([path] if isinstance(path, Path) else path)]
        if not self.files:
            raise InputError("no Liberty file given")
        self._home: dict[str, _File] = {}
        for file in self.files:
            for name in file.spans:
                if name in self._home:
                    raise InputError(f"the cell {name} stands in {self._home[name].path} and in {file.path}")
                self._home[name] = file
        self.name = "+".join(dict.fromkeys(file.name for file in self.files))
        self._cells: dict[str, Cell] = {}

    @property
    def names(self) -> list[str]:
        return list(self._home)

    @property
    def time(self) -> float:
        """ps of the first file's unit."""
        return self.files[0].time

    @property
    def capacitance(self) -> float:
        """fF of the first file's unit."""
        return self.files[0].capacitance

    @cached_property
    def voltage(self) -> float:
        volts = {file.voltage for file in self.files}
        if len(volts) > 1:
            given = ", ".join(f"{file.path} {file.voltage} V" for file in self.files)
            raise InputError(f"the Liberty files are of different voltages: {given}")
        return volts.pop()

    def cell(self, name: str) -> Cell:
        """Parse one cell."""
        if name not in self._cells:
            if name not in self._home:
                raise InputError(f"{' and '.join(str(file.path) for file in self.files)} has no cell {name}")
            self._cells[name] = self._home[name].cell(name)
        return self._cells[name]

    @cached_property
    def plain_texts(self) -> dict[str, str]:
        """File name -> the library written anew for tools whose readers take less than ours: all they need of every cell."""
        return {f"cells{i or ''}.lib": file.plain_text() for i, file in enumerate(self.files)}

    @cached_property
    def full_adder(self) -> tuple[str, tuple[str, str, str], str, str] | None:
        """(cell, inputs, sum output, carry output) of the smallest full adder, found by its truth tables; None without one."""
        found = []
        for name, home in self._home.items():
            source = home.source(name)
            if len(_FUNCTION.findall(source)) < 2 or _HOLDS.search(source):
                continue
            cell = self.cell(name)
            outputs = [pin for pin in cell.outputs if pin.function]
            if cell.unusual or len(outputs) != 2 or len(cell.inputs) != 3:
                continue
            names = tuple(pin.name for pin in cell.inputs)
            rows = [dict(zip(names, (bool(i & 1), bool(i & 2), bool(i & 4)), strict=True)) for i in range(8)]
            tables = {pin.name: [function.evaluate(pin.function, row) for row in rows] for pin in outputs}
            total = [p for p, table in tables.items() if table == [bin(i).count("1") % 2 == 1 for i in range(8)]]
            carry = [p for p, table in tables.items() if table == [bin(i).count("1") >= 2 for i in range(8)]]
            if total and carry:
                found.append((cell.area, (name, (names[0], names[1], names[2]), total[0], carry[0])))
        return min(found)[1] if found else None


class _File:
    """One Liberty file: its text, where its cells stand, its units."""

    def __init__(self, path: Path):
        self.path = path
        self.text = read(path)
        self.name, header, groups = outline(self.text, str(path))
        self.groups = groups
        self._groups: dict[int, Group] = {}  # parsed ones, by where they start
        self.spans: dict[str, Span] = {}
        self.twice: set[str] = set()
        for span in groups:
            if span.name == "cell":
                for name in span.args[:1]:
                    self.twice |= {name} & set(self.spans)
                    self.spans[name] = span
        if not self.name or not self.spans:
            raise InputError(f"{path} is no Liberty file: it has no library or no cells")
        self.header = statements(header, str(path))

    def source(self, name: str) -> str:
        span = self.spans[name]
        return self.text[span.start : span.end]

    def group(self, span: Span) -> Group:
        if span.start not in self._groups:
            self._groups[span.start] = parse(self.text[span.start : span.end], str(self.path), line_of(self.text, span.start))
        return self._groups[span.start]

    # Units ---------------------------------------------------------------------------------------------

    def _unit(self, given: str, units: dict[str, float], what: str) -> float:
        found = re.fullmatch(r"([\d.]+(?:[eE][+-]?\d+)?)\s*([a-zA-Z]+)", given)
        if not found or found.group(2).lower() not in units:
            raise InputError(f"{self.path}: {what} is {given or 'not given'!r}; known units: {', '.join(units)}, with a number before them")
        return float(found.group(1)) * units[found.group(2).lower()]

    @cached_property
    def time(self) -> float:
        return self._unit(self.header.first("time_unit"), _SECONDS, "time_unit")

    @cached_property
    def capacitance(self) -> float:
        return self._unit(" ".join(self.header.arguments("capacitive_load_unit") or []), _FARADS, "capacitive_load_unit")

    @cached_property
    def voltage(self) -> float:
        """Of the default operating conditions, else the nominal one, else of the only operating conditions there are."""
        scale = self._unit(self.header.first("voltage_unit", "1V"), _VOLTS, "voltage_unit")
        conditions = {span.args[0]: span for span in self.groups if span.name == "operating_conditions" and span.args}
        default = self.header.first("default_operating_conditions")
        given = ""
        if default in conditions:
            given = self.group(conditions[default]).first("voltage")
        given = given or self.header.first("nom_voltage")
        if not given and len(conditions) == 1:
            given = self.group(next(iter(conditions.values()))).first("voltage")
        if not given:
            raise InputError(f"{self.path} gives no voltage: neither operating conditions nor nom_voltage")
        return self._number(given, "the voltage") * scale

    def _number(self, text: str, what: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise InputError(f"{self.path}: {what} is {text!r}, not a number") from None

    # Cells ---------------------------------------------------------------------------------------------

    def cell(self, name: str) -> Cell:
        if name in self.twice:
            raise InputError(f"{self.path} defines the cell {name} twice")
        group = self.group(self.spans[name])
        where = f"cell {name}"
        pins: dict[str, Pin] = {}
        for pin in group.named("pin"):
            pins |= {one: self._pin(pin, one, where) for one in pin_names(pin.args)}
        area = self._number(group.first("area", "0"), f"{where}: area")
        cell = Cell(name, area, pins, leakage=self._leakage(group, where), unusual=unusual(group))
        flip_flops = group.named("ff")
        if not flip_flops:
            return cell
        ff = flip_flops[0]
        clock, falling = clock_of(ff.first("clocked_on"))
        if clock not in pins or len(ff.args) != 2 or len(flip_flops) > 1:
            return replace(cell, unusual=cell.unusual or "a flip-flop with more than a clock pin and two inner values")
        data = ff.first("next_state")
        setup = 0.0
        for pin in group.named("pin"):
            if set(pin_names(pin.args)) & set(function.names(data)):
                wanted = [t for t in pin.named("timing") if t.first("timing_type") == f"setup_{'falling' if falling else 'rising'}"]
                tables = [self._table(t, self.time, where) for timing in wanted for t in timing.named("rise_constraint", "fall_constraint")]
                setup = max([setup, *(table.at(SETUP_SLEW, SETUP_SLEW) for table in tables)])
        quiet = quiet_pins(ff) if cell.unusual.startswith(WITH) else ()
        return replace(cell, clock=clock, falling=falling, data=data, states=(ff.args[0], ff.args[1]), setup=setup, asynchronous=quiet)

    def _pin(self, group: Group, name: str, where: str) -> Pin:
        arcs = []
        for timing in group.named("timing"):
            if timing.first("timing_type", "combinational") not in _DELAYS:
                continue
            delay, slew = {}, {}
            for table in timing.groups:
                edge = "rise" if "rise" in table.name else "fall"
                if table.name in ("cell_rise", "cell_fall"):
                    delay[edge] = self._table(table, self.time, where)
                elif table.name in ("rise_transition", "fall_transition"):
                    slew[edge] = self._table(table, self.time, where)
            if delay:
                causes = {edge: came for edge, came in causes_of(timing).items() if edge in delay and edge in slew}
                arcs += [Arc(source, causes, delay, slew) for source in pin_names([timing.first("related_pin")])]
        energy: list[Table] = []
        for power in group.named("internal_power"):
            tables = power.named("rise_power", "fall_power", "power")
            energy += [self._table(t, self.capacitance * self.volts**2, where) for t in tables]
        load = self._load(group, where)
        given = {edge: group.first(f"{edge}_capacitance") for edge in ("rise", "fall")}
        edges = {edge: self._number(text, f"{where}: capacitance") * self.capacitance if text else load for edge, text in given.items()}
        return Pin(name, group.first("direction"), load, group.first("function"), tuple(arcs), tuple(energy), edges)

    def _leakage(self, group: Group, where: str) -> float:
        """nW: the cell's own figure, else the mean over its states; 0 without a unit."""
        given = [group.first("cell_leakage_power")]
        if not given[0]:
            given = [state.first("value") for state in group.named("leakage_power") if state.first("value")]
        unit = self.header.first("leakage_power_unit")
        if not unit or not given:
            return 0.0
        return sum(self._number(text, f"{where}: leakage") for text in given) / len(given) * self._unit(unit, _WATTS, "leakage_power_unit")

    @cached_property
    def volts(self) -> float:
        """The voltage unit; energies count in it."""
        return self._unit(self.header.first("voltage_unit", "1V"), _VOLTS, "voltage_unit")

    def _load(self, group: Group, where: str) -> float:
        given = [group.first(name) for name in ("rise_capacitance", "fall_capacitance")]
        one = group.first("capacitance")
        if not one and all(given):
            one = str(sum(self._number(value, f"{where}: capacitance") for value in given) / 2)
        if not one and group.first("direction") == "input":
            one = self.header.first("default_input_pin_cap")
            if not one:
                raise InputError(
                    f"{self.path}, {where}: the pin {', '.join(group.args)} has no capacitance, and the library no default_input_pin_cap"
                )
        number = self._number(one or "0", f"{where}: capacitance")
        return number * self.capacitance if number else 0.0

    @cached_property
    def _templates(self) -> dict[str, Group]:
        """Only small groups: table templates."""
        return {span.args[0]: self.group(span) for span in self.groups if span.name.endswith("template") and span.args}

    def _table(self, group: Group, scale: float, where: str) -> Table:
        """Values times `scale`. Axes stand in the table or in its template, which says what they are; without one, slew then load."""

        def numbers(given: list[str] | None) -> list[float]:
            return [self._number(x, f"{where}: {group.name}") for text in given or [] for x in re.split(r"[,\s]+", text.strip()) if x]

        template = self._templates.get(group.args[0]) if group.args else None
        axes, kinds = [], []
        for i in (1, 2, 3):
            given = group.arguments(f"index_{i}") or (template.arguments(f"index_{i}") if template else None)
            if given:
                axes.append(numbers(given))
                kinds.append(template.first(f"variable_{i}") if template else "")
        flat = numbers(group.arguments("values"))
        many = 1
        for axis in axes:
            many *= len(axis)
            if any(b <= a for a, b in pairwise(axis)):
                raise InputError(f"{self.path}, {where}: an index of {group.name} does not rise")
        if len(axes) > 2 or len(flat) != many:
            what = "has three axes" if len(axes) > 2 else f"has {len(flat)} values where its axes make {many}"
            raise InputError(f"{self.path}, {where}: the table {group.name} {what}")
        constraint = group.name.endswith("constraint")
        load_first = bool(kinds) and kinds[0] == _LOAD
        second = self.time if constraint else self.capacitance
        if len(axes) < 2:
            axis = axes[0] if axes else [0.0]
            if load_first:
                return Table([0.0], [x * self.capacitance for x in axis], [[x * scale for x in flat]])
            return Table([x * self.time for x in axis], [0.0], [[x * scale] for x in flat])
        rows = [flat[i * len(axes[1]) : (i + 1) * len(axes[1])] for i in range(len(axes[0]))]
        if load_first:
            axes, rows = axes[::-1], [list(row) for row in zip(*rows, strict=True)]
        return Table([x * self.time for x in axes[0]], [x * second for x in axes[1]], [[x * scale for x in row] for row in rows])

    # For other tools -----------------------------------------------------------------------------------

    def plain_text(self) -> str:
        """The library as Yosys and ABC need it."""
        cells = [self.group(span) for span in self.groups if span.name == "cell"]
        beside = [self.group(span) for span in self.groups if span.name.endswith("template") or span.name == "operating_conditions"]
        return plain_text(replace(self.header, args=[self.name]), cells, beside)
