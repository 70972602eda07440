"""One elaborated block as a Verilog-2001 module that a person reads: its own names, its conditions as `if`, its ports explained."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from amaranth.hdl import ClockSignal, Const, Fragment, Instance, ResetSignal, Signal, Value
from amaranth.hdl._ast import Assign, Concat, Operator, Slice, Statement, Switch

from overq.rtl.expressions import Expressions, literal, span

WIDTH = 120
RESERVED = {
    "begin",
    "case",
    "default",
    "else",
    "end",
    "for",
    "if",
    "initial",
    "inout",
    "input",
    "module",
    "output",
    "reg",
    "signed",
    "wire",
}


@dataclass(frozen=True)
class Port:
    """direction "input" or "output"; meaning, in words, stands behind it."""

    name: str
    direction: str
    signal: Signal
    meaning: str = ""


@dataclass
class _Module:
    """What is known of the signals while a module is written."""

    clock: Signal
    reset: Signal
    names: dict[int, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    inside: list[Signal] = field(default_factory=list)
    wires: dict[tuple[str, int, bool], str] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)
    hint: str = ""

    def name(self, signal: Signal) -> str:
        """A signal's own name, with a number behind it if another has it; signals are declared in the order of their first mention."""
        if id(signal) not in self.names:
            self.names[id(signal)] = self.free(signal.name)
            self.inside.append(signal)
        return self.names[id(signal)]

    def free(self, wish: str) -> str:
        if "$" in wish:
            raise NotImplementedError("a signal of this block has no name; give it one where it is made")
        name, number = wish, 2
        while name in self.taken or name in RESERVED:
            name, number = f"{wish}_{number}", number + 1
        self.taken.add(name)
        return name

    def hoist(self, value: Value, kind: str) -> str:
        """A wire for a value that Verilog cannot write exactly inside another; once for each."""
        shape = value.shape()
        text = Expressions(self.name, self.hoist).assigned(value)
        key = (text, shape.width, shape.signed)
        if key not in self.wires:
            self.wires[key] = self.free(f"{self.hint}_{kind}")
            self.pending.append(f"wire {span(shape)}{self.wires[key]} = {text};")
        return self.wires[key]


def module(name: str, fragment: Fragment, ports: Sequence[Port], clock: Signal, reset: Signal) -> str:
    """The text of one module. fragment: statements of the domains comb and sync, and instances. clock is among the ports; where reset is
    not, nothing is reset."""
    made = _Module(clock, reset)
    for port in ports:
        made.names[id(port.signal)] = port.name
        made.taken.add(port.name)
    instances = [(part, label) for part, label, _ in fragment.subfragments]
    if any(not isinstance(part, Instance) for part, _ in instances):
        raise NotImplementedError("a block is written alone: what it contains must be placed as instances")
    write = Expressions(made.name, made.hoist)
    comb, sync = list(fragment.statements.get("comb", ())), list(fragment.statements.get("sync", ()))
    direct = _connections(instances, comb)
    comb = [s for s in comb if not (isinstance(s, Assign) and id(s.lhs) in direct)]
    body = _combinational(comb, made, write)
    body += _clocked(sync, made, write, resets=any(port.signal is reset for port in ports))
    for part, label in instances:
        made.hint = str(label)
        body += _instance(part, str(label), made, write, direct)
    driven = {id(s) for s in _driven([*comb, *sync])} | {id(v) for p, _ in instances for v, kind in p.ports.values() if kind == "o"}
    idle = [s for s in (*made.inside, *(p.signal for p in ports if p.direction == "output")) if id(s) not in driven]
    body = [f"assign {made.names[id(s)]} = {literal(s.init, s.shape())};" for s in idle] + body
    registers = {id(s) for s in _driven(sync)} | _held(comb)
    lines = [f"module {name} (", *_ports(ports, registers), ");"]
    lines += [f"  {'reg' if id(s) in registers else 'wire'} {span(s.shape())}{made.names[id(s)]};" for s in made.inside]
    return "\n".join([*lines, "", *_wrapped(body, 1), "endmodule", ""])


def _ports(ports: Sequence[Port], registers: set[int]) -> list[str]:
    """What a port means stands behind it, or above it where that is long."""
    heads = [f"  {p.direction:6} {'reg ' if id(p.signal) in registers else 'wire'} {span(p.signal.shape())}{p.name}" for p in ports]
    heads = [head + ("," if i < len(heads) - 1 else "") for i, head in enumerate(heads)]
    column, lines = max(map(len, heads)) + 2, []
    for head, port in zip(heads, ports, strict=True):
        if column + len(port.meaning) + 3 <= WIDTH:
            lines.append(f"{head.ljust(column)}// {port.meaning}" if port.meaning else head)
        else:
            lines += [*textwrap.wrap(port.meaning, WIDTH, initial_indent="  // ", subsequent_indent="  // "), head]
    return lines


# Combinational logic -----------------------------------------------------------------------------------


def _combinational(statements: Sequence[Statement], made: _Module, write: Expressions) -> list[str]:
    """Signal by signal, in the order in which they are first driven."""
    held, lines = _held(statements), []
    owned: dict[int, list[Statement]] = {}
    for statement in statements:
        for signal in _driven([statement]):
            owned.setdefault(id(signal), []).append(statement)
    for signal in _driven(statements):
        own = owned[id(signal)]
        made.hint = made.name(signal)
        if id(signal) not in held:
            for assign in own:
                assert isinstance(assign, Assign)
                text = f"assign {write.target(assign.lhs)} = {write.assigned(assign.rhs)};"
                lines += [*_taken(made), text]
            lines += [f"assign {made.name(signal)}{bits} = 0;" for bits in _rest(signal, own)]
            continue
        inner = _block(own, write, "=", only=signal)
        start = f"  {made.name(signal)} = {literal(signal.init, signal.shape())};"
        lines += [*_taken(made), "always @* begin", start, *(f"  {line}" for line in inner), "end"]
    return lines


def _held(statements: Iterable[Statement]) -> set[int]:
    """Signals that need a procedure: driven under a condition, or some bit of them twice."""
    held: set[int] = set()
    seen: set[tuple[int, int]] = set()
    for statement in statements:
        for signal in _driven([statement]):
            bits = {(id(signal), bit) for bit in _bits_of(statement.lhs)} if isinstance(statement, Assign) else set()
            if not isinstance(statement, Assign) or bits & seen:
                held.add(id(signal))
            seen |= bits
    return held


def _bits_of(target: Value) -> range:
    while isinstance(target, Operator):  # read as signed or unsigned
        target = target.operands[0]
    return range(target.start, target.stop) if isinstance(target, Slice) else range(len(target))


def _rest(signal: Signal, assigns: Sequence[Statement]) -> list[str]:
    """Bits that nothing drives, as they are selected."""
    free = sorted(set(range(len(signal))) - {bit for s in assigns if isinstance(s, Assign) for bit in _bits_of(s.lhs)})
    return [f"[{bit}]" if len(signal) > 1 else "" for bit in free]


# Registers ---------------------------------------------------------------------------------------------


def _clocked(statements: Sequence[Statement], made: _Module, write: Expressions, resets: bool) -> list[str]:
    if not statements:
        return []
    made.hint = "next"
    inner = _block(statements, write, "<=", made=made)
    cleared = [s for s in _driven(statements) if not s.reset_less] if resets else []
    if cleared:
        values = [f"  {made.name(s)} <= {literal(s.init, s.shape())};" for s in cleared]
        inner += [f"if ({made.name(made.reset)}) begin", *values, "end"]
    return [*_taken(made), f"always @(posedge {made.name(made.clock)}) begin", *(f"  {line}" for line in inner), "end"]


def _block(
    statements: Sequence[Statement], write: Expressions, sign: str, only: Signal | None = None, made: _Module | None = None
) -> list[str]:
    """Statements of a procedure; neighbours under the same condition share it."""
    lines: list[str] = []
    last = ""
    for statement in statements:
        if only is not None and not _drives(statement, only):
            continue
        if isinstance(statement, Assign):
            target = write.target(statement.lhs)
            if made is not None:
                made.hint = target.partition("[")[0]
            lines.append(f"{target} {sign} {write.assigned(statement.rhs)};")
            last = ""
        elif isinstance(statement, Switch):
            branches = [(_condition(statement, patterns, write), list(inner)) for patterns, inner, _ in statement.cases]
            head = f"if ({branches[0][0]}) begin"
            if len(branches) == 1 and head == last:
                lines.pop()
            else:
                lines.append(head)
            for i, (condition, inner) in enumerate(branches):
                if i:
                    lines.append(f"end else if ({condition}) begin" if condition else "end else begin")
                lines += [f"  {line}" for line in _block(inner, write, sign, only, made)]
            lines.append("end")
            last = head if len(branches) == 1 else ""
        else:
            raise NotImplementedError(f"no Verilog for {statement!r}")
    return lines


def _condition(switch: Switch, patterns: tuple[str, ...] | None, write: Expressions) -> str:
    """What `m.If` and `m.Elif` make: one bit of the test decides, the others do not matter."""
    if not patterns or set(patterns[0]) == {"-"}:
        return ""
    (pattern,) = patterns
    if pattern.count("1") != 1 or pattern.count("-") != len(pattern) - 1:
        raise NotImplementedError(f"no Verilog for {switch!r}")
    test, bit = switch.test, len(pattern) - 1 - pattern.index("1")
    return write.condition(test.parts[bit] if isinstance(test, Concat) and all(len(p) == 1 for p in test.parts) else test[bit])


# Instances ---------------------------------------------------------------------------------------------


def _connections(instances: Sequence[tuple[Instance, str | None]], comb: Sequence[Statement]) -> dict[int, Value]:
    """Inputs of instances that one assignment drives with a signal or a part of one: joined without a wire between."""
    inputs = {id(v) for part, _ in instances for v, kind in part.ports.values() if kind == "i" and isinstance(v, Signal)}
    assigns = [s for s in comb if isinstance(s, Assign)]
    times = Counter(id(s.lhs) for s in assigns)
    once = [s for s in assigns if id(s.lhs) in inputs and times[id(s.lhs)] == 1]
    return {id(s.lhs): s.rhs for s in once if len(s.lhs) == len(s.rhs) and _is_plain(s.rhs)}


def _is_plain(value: Value) -> bool:
    return isinstance(value, (Signal, Const)) or (isinstance(value, Slice) and isinstance(value.value, Signal))


def _instance(part: Instance, label: str, made: _Module, write: Expressions, direct: Mapping[int, Value]) -> list[str]:
    def text(value: Value) -> str:
        if isinstance(value, (ClockSignal, ResetSignal)):
            return made.name(made.clock if isinstance(value, ClockSignal) else made.reset)
        return write.exact(direct.get(id(value), value))

    joined = [f".{port}({text(value)})" for port, (value, _) in part.ports.items()]
    return [*_taken(made), f"{part.type} {label} ({', '.join(joined)});"]


# Helpers -----------------------------------------------------------------------------------------------


def _driven(statements: Iterable[Statement]) -> list[Signal]:
    found: dict[int, Signal] = {}
    for statement in statements:
        for signal in statement._lhs_signals():
            found.setdefault(id(signal), signal)
    return list(found.values())


def _drives(statement: Statement, signal: Signal) -> bool:
    return any(other is signal for other in _driven([statement]))


def _taken(made: _Module) -> list[str]:
    lines, made.pending = made.pending, []
    return lines


def _wrapped(lines: Iterable[str], level: int) -> list[str]:
    out = []
    for line in lines:
        indent = "  " * level + line[: len(line) - len(line.lstrip())]
        out += textwrap.wrap(
            line.lstrip(), WIDTH, initial_indent=indent, subsequent_indent=indent + "    ", break_long_words=False, break_on_hyphens=False
        )
    return out
