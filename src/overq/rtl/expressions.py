"""Amaranth's values as Verilog expressions that mean the same.

Amaranth's operators have exact results, as wide as they can get; Verilog's take their width from what stands around them, and become
unsigned as soon as one operand is. So there are two ways to write a value:

    exact       by itself it has just the width and the sign of the Amaranth value; what cannot be written so (sums, differences,
                products, left shifts, bits of an expression) becomes a wire with a name
    arithmetic  right in its low bits, as many as the place has that takes it, if all its operands have one sign
"""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Const, Shape, Signal, Value
from amaranth.hdl._ast import Concat, Operator, Slice, SwitchValue

Hoist = Callable[[Value, str], str]  # (value, what it is) -> the name of a wire that holds it
KINDS = {"+": "sum", "-": "difference", "*": "product", "<<": "shifted"}


def span(shape: Shape) -> str:
    """How a vector is declared: "signed [7:0] "."""
    return f"{'signed ' * shape.signed}{f'[{shape.width - 1}:0] ' * (shape.width > 1)}"


def literal(value: int, shape: Shape) -> str:
    if shape.width == 1 and not shape.signed:
        return f"1'b{value}"
    if value < 0 and value == -(1 << shape.width - 1):  # "-4'sd8" would be the negative of what 4'sd8 is, -8
        return f"{shape.width}'sb{1 << shape.width - 1:b}"
    return f"{'-' * (value < 0)}{shape.width}'{'s' * shape.signed}d{abs(value)}"


class Expressions:
    """Writes the values of one module. `names` gives a signal's name, `hoist` a wire for what needs one."""

    def __init__(self, names: Callable[[Signal], str], hoist: Hoist):
        self.names, self.hoist = names, hoist

    def assigned(self, value: Value) -> str:
        """The right side of an assignment, to a target of any width."""
        return _bare(self._arithmetic(value, _any_signed(value)) if _is_arithmetic(value) else self.exact(value))

    def condition(self, value: Value) -> str:
        return _bare(self.exact(value))

    def target(self, value: Value) -> str:
        """The left side of an assignment."""
        if isinstance(value, Operator) and value.operator in ("u", "s"):
            return self.target(value.operands[0])
        if isinstance(value, Signal):
            return self.names(value)
        if isinstance(value, Slice) and isinstance(value.value, Signal):
            return self._bits(self.names(value.value), value)
        raise NotImplementedError(f"cannot assign to {value!r}")

    def exact(self, value: Value) -> str:
        if isinstance(value, Const):
            return literal(value.value, value.shape())
        if isinstance(value, Signal):
            return self.names(value)
        if isinstance(value, Slice):
            return self._slice(value)
        if isinstance(value, Concat):
            return self._concat(value)
        if isinstance(value, SwitchValue):
            return self._choice(value, self._alike)
        if isinstance(value, Operator):
            return self._operator(value)
        raise NotImplementedError(f"no Verilog for {value!r}")

    def _arithmetic(self, value: Value, signed: bool) -> str:
        if not _is_arithmetic(value):
            return self._as(value, signed)
        if isinstance(value, SwitchValue):
            return self._choice(value, lambda *both: [self._arithmetic(one, signed) for one in both])
        assert isinstance(value, Operator)
        left, *right = value.operands
        if value.operator == "<<":
            if isinstance(right[0], Const) and right[0].value == 0:
                return self._arithmetic(left, signed)
            return f"({self._arithmetic(left, signed)} << {_amount(self, right[0])})"
        if not right:
            return f"(-{self._arithmetic(left, signed)})"
        return f"({self._arithmetic(left, signed)} {value.operator} {self._arithmetic(right[0], signed)})"

    def _as(self, value: Value, signed: bool) -> str:
        """Exact, and signed where asked; then an unsigned value has a bit more."""
        shape = value.shape()
        if shape.signed or not signed:
            return self.exact(value)
        if isinstance(value, Const):
            return literal(value.value, Shape(shape.width + 1, True))
        return f"$signed({{1'b0, {self.exact(value)}}})"

    def _alike(self, left: Value, right: Value) -> list[str]:
        signed = left.shape().signed or right.shape().signed
        return [self._as(left, signed), self._as(right, signed)]

    def _operator(self, value: Operator) -> str:
        name, (left, *right) = value.operator, value.operands
        if name in KINDS:
            return self.hoist(value, KINDS[name])
        if name == ">>":
            shift = ">>>" if left.shape().signed else ">>"
            return f"({self.exact(left)} {shift} {_amount(self, right[0])})"
        if right:
            a, b = self._alike(left, right[0])
            if name in "&|^":  # a chain of one operator needs no brackets inside
                a, b = (_bare(text) if _is(operand, name) else text for text, operand in ((a, left), (b, right[0])))
            return f"({a} {name} {b})"
        inner, width = self.exact(left), len(left)
        if name == "~":
            return f"~{inner}"
        if name in ("b", "r|", "r&", "r^"):
            sign = "|" if name == "b" else name[1]
            return inner if width == 1 and not left.shape().signed else f"({sign}{inner})"
        if name in "us":
            return inner if left.shape().signed == (name == "s") else f"${'un' * (name == 'u')}signed({_bare(inner)})"
        raise NotImplementedError(f"no Verilog for operator {name}")

    def _slice(self, value: Slice) -> str:
        inner, start, stop = value.value, value.start, value.stop
        while True:
            if isinstance(inner, Operator) and inner.operator in ("u", "s"):
                inner = inner.operands[0]
            elif isinstance(inner, Slice):
                start, stop, inner = start + inner.start, stop + inner.start, inner.value
            else:
                break
        if isinstance(inner, Const):
            width = stop - start
            return literal(inner.value >> start & (1 << width) - 1, Shape(width))
        name = self.names(inner) if isinstance(inner, Signal) else self.hoist(inner, "value")
        return self._bits(name, Slice(inner, start, stop))

    @staticmethod
    def _bits(name: str, value: Slice) -> str:
        whole = value.value.shape()
        if len(value) == whole.width:
            return f"$unsigned({name})" if whole.signed else name
        return f"{name}[{value.start}]" if len(value) == 1 else f"{name}[{value.stop - 1}:{value.start}]"

    def _concat(self, value: Concat) -> str:
        parts = [part for part in value.parts if len(part)]
        texts: list[str] = []
        for part in reversed(parts):  # Verilog's first part is the highest
            texts.append(_bare(self.exact(part)))
        if len(parts) == 1:
            return f"$unsigned({texts[0]})" if parts[0].shape().signed else self.exact(parts[0])
        if len(set(texts)) == 1:
            return f"{{{len(texts)}{{{texts[0]}}}}}"
        return f"{{{', '.join(texts)}}}"

    def _choice(self, value: SwitchValue, both: Callable[[Value, Value], list[str]]) -> str:
        (patterns, no), (otherwise, yes) = value.cases
        if otherwise is not None or patterns != ("0" * len(value.test),):
            raise NotImplementedError(f"no Verilog for {value!r}")
        a, b = both(yes, no)
        return f"({self.exact(value.test)} ? {a} : {b})"


def _is_arithmetic(value: Value) -> bool:
    if isinstance(value, SwitchValue):
        return any(_is_arithmetic(one) for _, one in value.cases)
    return isinstance(value, Operator) and value.operator in KINDS


def _any_signed(value: Value) -> bool:
    """Whether any operand of the arithmetic is signed."""
    if not _is_arithmetic(value):
        return bool(value.shape().signed)
    if isinstance(value, SwitchValue):
        return any(_any_signed(one) for _, one in value.cases)
    assert isinstance(value, Operator)
    return any(_any_signed(one) for one in (value.operands[:1] if value.operator == "<<" else value.operands))


def _is(value: Value, operator: str) -> bool:
    return isinstance(value, Operator) and value.operator == operator and len(value.operands) == 2


def _amount(expressions: Expressions, value: Value) -> str:
    return str(value.value) if isinstance(value, Const) else expressions.exact(value)


def _bare(text: str) -> str:
    """Without the brackets around all of it."""
    while text.startswith("(") and text.endswith(")"):
        depth = 0
        for i, letter in enumerate(text):
            depth += (letter == "(") - (letter == ")")
            if depth == 0 and i < len(text) - 1:
                return text
        text = text[1:-1]
    return text
