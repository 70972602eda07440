"""A mapped netlist: cells of a Liberty library joined by nets. Static timing, simulation and switching energy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from overq.eda import function
from overq.eda.cells import Cell, Pin
from overq.eda.liberty import Library
from overq.errors import InputError

Net = int | str
INPUT_SLEW = 20.0  # ps, of a clock edge
BLOCKS = "overq_"


@dataclass(frozen=True)
class Instance:
    name: str
    cell: Cell
    nets: dict[str, Net]


@dataclass(frozen=True)
class Timing:
    """period: clock to output + logic + setup of the slowest path (ps). depth: cells on it. path: their names."""

    period: float
    depth: int
    path: tuple[str, ...]


class Netlist:
    """Parsed from Yosys' JSON of a flattened, mapped module."""

    def __init__(self, text: str, module: str, library: Library):
        body = json.loads(text)["modules"][module]
        self.library, self.name = library, module
        self.inputs = {name: port["bits"] for name, port in body["ports"].items() if port["direction"] == "input"}
        self.outputs = {name: port["bits"] for name, port in body["ports"].items() if port["direction"] == "output"}
        self.instances = [
            Instance(name, library.cell(cell["type"]), {pin: bits[0] for pin, bits in cell["connections"].items()})
            for name, cell in body["cells"].items()
            if not cell["type"].startswith(BLOCKS)  # other blocks are counted on their own
        ]
        for instance in self.instances:
            cell = instance.cell
            tied = [instance.nets.get(pin) == str(int(quiet)) for pin, quiet in cell.asynchronous]
            if cell.unusual and not (tied and all(tied)):
                raise InputError(f"{module} uses the cell {cell.name}, which has {cell.unusual}: not understood here")
            strangers = set(instance.nets) - set(cell.pins)
            if strangers:
                raise InputError(f"{module} uses the cell {cell.name} with the pin {min(strangers)}, which the library does not describe")

    @property
    def flip_flops(self) -> list[Instance]:
        return [i for i in self.instances if i.cell.is_flip_flop]

    @property
    def area(self) -> float:
        return sum(i.cell.area for i in self.instances)

    @property
    def flip_flop_area(self) -> float:
        return sum(i.cell.area for i in self.flip_flops)

    @cached_property
    def load(self) -> dict[Net, float]:
        """fF of the input pins on every net; wires are not counted."""
        loads: dict[Net, float] = {}
        for instance in self.instances:
            for pin in instance.cell.inputs:
                if pin.name in instance.nets:
                    net = instance.nets[pin.name]
                    loads[net] = loads.get(net, 0.0) + pin.capacitance
        return loads

    @cached_property
    def edge_load(self) -> dict[tuple[Net, str], float]:
        """The same for a rising and for a falling net, which some libraries tell apart."""
        loads: dict[tuple[Net, str], float] = {}
        for instance in self.instances:
            for pin in instance.cell.inputs:
                for edge, farads in pin.edges.items() if pin.name in instance.nets else ():
                    key = instance.nets[pin.name], edge
                    loads[key] = loads.get(key, 0.0) + farads
        return loads

    @cached_property
    def ordered(self) -> list[Instance]:
        """The combinational cells, each after those that drive it."""
        driver = {}
        for instance in self.instances:
            if not instance.cell.is_flip_flop:
                for pin in instance.cell.outputs:
                    if pin.name in instance.nets:
                        driver[instance.nets[pin.name]] = instance
        done: dict[str, int] = {}
        order: list[Instance] = []
        for root in driver.values():
            stack = [(root, False)]
            while stack:
                instance, ready = stack.pop()
                if ready:
                    done[instance.name] = 2
                    order.append(instance)
                    continue
                if done.get(instance.name):
                    continue
                done[instance.name] = 1
                stack.append((instance, True))
                for pin in instance.cell.inputs:
                    before = driver.get(instance.nets.get(pin.name, ""))
                    if before is not None:
                        if done.get(before.name) == 1:
                            raise InputError(f"{self.name}: a combinational loop through {before.name}")
                        stack.append((before, False))
        return order

    def timing(self) -> Timing | None:
        """Register to register, inputs counted as coming straight from a register like the ones inside. None where a cell has no delays.

        An edge has the slowest slew of all that cause it, not that of the latest, as graph-based timers have it.
        """
        if not all(instance.cell.timed for instance in self.instances):
            return None
        arrival: dict[tuple[Net, str], tuple[float, float]] = {}
        cause: dict[tuple[Net, str], tuple[tuple[Net, str] | None, str]] = {}
        start = min((i.cell for i in self.flip_flops), key=lambda cell: cell.area, default=None)
        if start is not None:
            for bits in self.inputs.values():
                for net in bits:
                    for edge in ("rise", "fall"):
                        arrival[net, edge] = self._launch(start, start.outputs[0], net, edge)
        for instance in self.flip_flops:
            for pin in instance.cell.outputs:
                if pin.name in instance.nets and pin.arcs:
                    for edge in ("rise", "fall"):
                        arrival[instance.nets[pin.name], edge] = self._launch(instance.cell, pin, instance.nets[pin.name], edge)
        for instance in self.ordered:
            for pin in instance.cell.outputs:
                net = instance.nets.get(pin.name)
                if net is None:
                    continue
                for edge in ("rise", "fall"):
                    best, slowest = None, 0.0
                    for arc in pin.arcs:
                        for came in arc.causes.get(edge, ()):
                            key = (instance.nets.get(arc.source, ""), came)
                            if key in arrival and edge in arc.delay:
                                time, slew = arrival[key]
                                load = self.edge_load.get((net, edge), 0.0)
                                at = time + arc.delay[edge].at(slew, load)
                                slowest = max(slowest, arc.slew[edge].at(slew, load))
                                if best is None or at > best[0]:
                                    best = at, key
                    if best:
                        arrival[net, edge] = best[0], slowest
                        cause[net, edge] = best[1], f"{instance.cell.name}:{instance.name}"
        worst, end = 0.0, None
        for instance in self.flip_flops:
            for net in (instance.nets.get(pin, "") for pin in instance.cell.data_pins):
                for edge in ("rise", "fall"):
                    if (net, edge) in arrival and arrival[net, edge][0] + instance.cell.setup > worst:
                        worst, end = arrival[net, edge][0] + instance.cell.setup, (net, edge)
        path: list[str] = []
        while end is not None and end in cause:
            before, through = cause[end]
            path.append(through)
            end = before
        return Timing(worst, len(path), tuple(reversed(path)))

    def _launch(self, cell: Cell, pin: Pin, net: Net, edge: str) -> tuple[float, float]:
        arc = next(arc for arc in pin.arcs if edge in arc.causes and arc.source == cell.clock)
        load = self.edge_load.get((net, edge), 0.0)
        return arc.delay[edge].at(INPUT_SLEW, load), arc.slew[edge].at(INPUT_SLEW, load)

    # Simulation ----------------------------------------------------------------------------------------

    @cached_property
    def _step(self) -> Callable[[list[int], int], None]:
        """One compiled pass over the combinational cells; slot k of the list holds net k, one bit for each stream of the mask."""
        return self._compile(
            (self.slot(i.nets[pin.name]), pin.function, i)
            for i in self.ordered
            for pin in i.cell.outputs
            if pin.name in i.nets and pin.function
        )

    @cached_property
    def _clock(self) -> Callable[[list[int], int], None]:
        """One compiled pass that puts every flip-flop's next value into its own slot."""
        return self._compile((self.state_slot(k), i.cell.data, i) for k, i in enumerate(self.flip_flops))

    def _compile(self, assignments: Iterable[tuple[int, str, Instance]]) -> Callable[[list[int], int], None]:
        lines = ["def step(v, m):"]
        held = {i.name: self.state_slot(k) for k, i in enumerate(self.flip_flops)}
        for target, text, instance in assignments:
            slots = {pin.name: self.slot(instance.nets.get(pin.name, "0")) for pin in instance.cell.inputs}
            inverse = instance.cell.states[1]
            if instance.name in held:
                slots |= dict.fromkeys(instance.cell.states, held[instance.name])

            def place(name: str, slots: dict[str, int] = slots, inverse: str = inverse) -> str:
                return f"{'~' * (name == inverse)}v[{slots[name]}]"

            lines.append(f"    v[{target}] = ({function.expression(text, place)}) & m")
        scope: dict[str, Callable[[list[int], int], None]] = {}
        exec("\n".join([*lines, "    return None"]), {"__builtins__": {}}, scope)  # operators and slots only
        return scope["step"]

    def state_slot(self, k: int) -> int:
        """Where flip-flop k keeps its value, behind the nets."""
        return len(self._slots) + k

    @cached_property
    def _slots(self) -> dict[Net, int]:
        nets: dict[Net, int] = {"0": 0, "1": 1, "x": 2}
        for bits in [*self.inputs.values(), *self.outputs.values(), *(i.nets.values() for i in self.instances)]:
            for net in bits:
                nets.setdefault(net, len(nets))
        return nets

    def slot(self, net: Net) -> int:
        return self._slots[net]

    def run(self, cycles: Iterable[Mapping[str, int]]) -> tuple[list[dict[str, int]], dict[Net, int]]:
        """Clock the netlist once per mapping of input values.

        Returns the outputs before each clock edge, and how often each net changed between settled cycles (no glitches).
        """
        toggles, seen = self._clocked(([given] for given in cycles), 1)
        slots = {name: [self.slot(net) for net in bits] for name, bits in self.outputs.items()}
        outputs = [{name: sum(values[slot] << k for k, slot in enumerate(bits)) for name, bits in slots.items()} for values in seen]
        return outputs, {net: toggles[k] for net, k in self._slots.items()}

    def _clocked(self, cycles: Iterable[Sequence[Mapping[str, int]]], streams: int) -> tuple[list[int], list[list[int]]]:
        """(changes of each slot, all streams together; the slots before each clock edge) of `streams` copies side by side.

        cycles   for each cycle, what each stream gives the inputs; bit s of every slot is that of stream s
        """
        all_on = (1 << streams) - 1
        values = [0] * (len(self._slots) + len(self.flip_flops))
        values[1] = all_on
        slots = {name: [self.slot(net) for net in bits] for name, bits in self.inputs.items()}
        driven = [
            (self.slot(i.nets[pin.name]), self.state_slot(k), 0 if not i.cell.inverted(pin) else all_on)
            for k, i in enumerate(self.flip_flops)
            for pin in i.cell.outputs
            if pin.name in i.nets
        ]
        toggles = [0] * len(self._slots)
        seen: list[list[int]] = []
        for given in cycles:
            for name in given[0]:
                for k, slot in enumerate(slots[name]):
                    values[slot] = sum((stream[name] >> k & 1) << s for s, stream in enumerate(given))
            self._step(values, all_on)
            now = values[: len(toggles)]
            if seen:
                for k, old in enumerate(seen[-1]):
                    toggles[k] += (old ^ now[k]).bit_count()
            seen.append(now)
            self._clock(values, all_on)
            for slot, state, flipped in driven:
                values[slot] = values[state] ^ flipped
        return toggles, seen

    def energy(self, *streams: Sequence[Mapping[str, int]]) -> float:
        """Dynamic energy per cycle in fJ, mean over streams of as many cycles: for every change of a net half C·V² of the pins on it and
        the mean internal energy of its driver, plus the clock pins of the flip-flops, twice a cycle. No wires, no glitches, no leakage."""
        toggles, seen = self._clocked(zip(*streams, strict=True), len(streams))
        changes: dict[Net, int] = {net: toggles[k] for net, k in self._slots.items() if not isinstance(net, str)}
        volts = self.library.voltage
        steps = max(len(seen) - 1, 1) * len(streams)
        total = sum(count * 0.5 * self.load.get(net, 0.0) * volts**2 for net, count in changes.items())
        for instance in self.instances:
            for pin in instance.cell.outputs:
                net = instance.nets.get(pin.name)
                if net is not None and pin.energy:
                    load = self.load.get(net, 0.0)
                    mean = sum(table.at(INPUT_SLEW, load) for table in pin.energy) / len(pin.energy)
                    total += changes.get(net, 0) * mean
            if instance.cell.is_flip_flop:
                clock = instance.cell.pins[instance.cell.clock]
                internal = sum(table.at(INPUT_SLEW, 0.0) for table in clock.energy) / max(len(clock.energy), 1)
                total += steps * 2 * (0.5 * clock.capacitance * volts**2 + internal)
        return total / steps

    @property
    def leakage(self) -> float:
        """nW."""
        return sum(instance.cell.leakage for instance in self.instances)
