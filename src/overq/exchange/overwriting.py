"""`overq::overwrite` as a function of standard ONNX operators: what `overq.overwrite` computes, bit for bit, ties and NaN included.

No loop and no unrolled tree: which zero serves which lane is found with two or three max pools along the lanes, whatever the cascade
factor. All numbers are integers that the floating-point type holds exactly.

    count      L + 1 - j in lane j of a tile of L lanes: falls towards the tile's end, at least 2
    M          max pool over lanes j … j+c of count where the lane is zero: the nearest zero is p = L + 1 - M; none: 0
    key        one number that orders candidates by p first, then by who is to be served; a lane is served that holds the largest key of
               its reach. Lanes before it have no later p, so the window before it ends the comparison for policy `first`; for `largest`
               a second one looks at the lanes behind it, with p counted downwards.

Who gives way (`Format.evict`) is found before that, in the same way: an outlier waits that is not the last one before its nearest zero;
a max pool tells every lane the nearest zero or outlier before it and what level that one takes; the first lane of those that may go goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from overq.errors import FormatError
from overq.exchange.fields import check_fields
from overq.exchange.reading import library
from overq.spec import Format

DOMAIN = "overq"
NONE = -1e18  # below every key
OPSET = 13  # of functions, unless they need another
REDUCE_AXES = 18  # opset from which on the axes of every reduction are an input
SINGLE, DOUBLE = 1 << 24, 1 << 53  # up to which integers float32 and float64 hold every one


@dataclass(frozen=True)
class Tiles:
    """How a tensor's channels are laid on lanes: `groups` of `channels`, each cut into tiles of `lanes`; the last may be shorter."""

    groups: int
    channels: int
    lanes: int

    @property
    def count(self) -> int:
        return self.groups * -(-self.channels // self.lanes)

    @property
    def short(self) -> int:
        """Lanes that the last tile of a group lacks."""
        return -self.channels % self.lanes


def tiles_of(fmt: Format, channels: int, groups: int) -> Tiles:
    """Of a layer with that many input channels in all; lanes never cross a group."""
    each = channels // groups
    return Tiles(groups, each, each if fmt.lanes is None else min(fmt.lanes, each))


class Nodes:
    """Standard operators in a row, with constants as nodes: the body of a function."""

    def __init__(self, dtype: Any = np.float32) -> None:
        self.ir = library("onnx_ir")
        self.nodes: list[Any] = []
        self.dtype = dtype
        self.constants: dict[tuple[str, float], Any] = {}

    def __call__(self, op: str, *inputs: Any, **attributes: Any) -> Any:
        """The first output of one node."""
        node = self.ir.node(op, list(inputs), attributes or None)
        self.nodes.append(node)
        return node.outputs[0]

    def number(self, value: float, dtype: Any = None) -> Any:
        """A scalar constant, of the body's own type unless another is named."""
        kind = np.dtype(dtype or self.dtype)
        if (kind.name, value) not in self.constants:
            self.constants[kind.name, value] = self("Constant", value=self.ir.tensor(np.array(value, kind)))
        return self.constants[kind.name, value]

    def ints(self, values: Sequence[int]) -> Any:
        return self("Constant", value=self.ir.tensor(np.array(values, np.int64)))

    def function(self, name: str, inputs: list[Any], outputs: list[Any], doc: str, opset: int = OPSET) -> Any:
        """The row as a model-local function, an onnx_ir.Function."""
        graph = self.ir.Graph(inputs, outputs, nodes=self.nodes, opset_imports={"": opset}, name=name)
        graph.doc_string = doc
        return self.ir.Function(DOMAIN, name, graph=graph, attributes=[])


def overwrite_function(name: str, fmt: Format, short: Tiles | None, exact: Any, worth: bool = True) -> Any:
    """onnx_ir.Function (x, rate, back, shape, count) -> y for float32 x; one for all layers of a format.

    rate, back   the scalars r and q of `kernels.scale.factors`
    shape        int64 [4]: x as [A, T, L, B], T tiles of L lanes, see `rows`
    count        float32 [1, 1, L, 1]: L + 1 - j
    short        the tiles, where the last one of a group lacks lanes; shape is then that of [A, groups, channels, B]
    exact        numpy.float32 or numpy.float64: what holds the numbers that are compared
    worth        y is E · back; False: the integers E themselves, and there is no `back`; x may be float64

    With cascade 0 there are no shape and no count.
    """
    check_fields(fmt, "has no ONNX form yet")
    n = Nodes()
    x, rate, back, count = (n.ir.val(label, n.ir.DataType.FLOAT) for label in ("x", "rate", "back", "count"))
    shape = n.ir.val("shape", n.ir.DataType.INT64)
    single = x if worth else n("Cast", x, to=n.ir.DataType.FLOAT)
    nan = n("IsNaN", single)
    t = n("Clip", n("Where", nan, n.number(0), n("Floor", n("Mul", single, rate))), n.number(fmt.t_min), n.number(fmt.t_max))
    E = whole(n, x, t, shape, count, fmt, short, exact)
    y = n("Where", nan, single, n("Mul", E, back) if worth else E)
    y.name = "y"
    inputs = [x, rate, *([back] if worth else []), *([shape, count] if fmt.cascade else [])]
    return n.function(name, inputs, [y], f"{fmt.label}, policy {fmt.policy}")


def whole(n: Nodes, x: Any, t: Any, shape: Any, count: Any, fmt: Format, short: Tiles | None, exact: Any) -> Any:
    """E of saturated integers t, float32, in x's shape."""
    if fmt.cascade:
        return n("Reshape", _in(n, exact, t, shape, count, fmt, short), n("Shape", x))
    return n("Clip", _level(n, t, fmt), n.number(fmt.digit_min), n.number(fmt.digit_max))


def rows(tiles: Tiles, linear: bool) -> list[int]:
    """`shape` of the function: channels lie in dim 1, or in the last one where `linear`."""
    first, last = (-1, 1) if linear else (0, -1)
    return [first, *((tiles.groups, tiles.channels) if tiles.short else (tiles.count, tiles.lanes)), last]


def lane_counts(tiles: Tiles) -> np.ndarray:
    """`count` of the function."""
    return (tiles.lanes + 1 - np.arange(tiles.lanes)).astype(np.float32).reshape(1, 1, tiles.lanes, 1)


def _in(n: Nodes, exact: Any, t: Any, shape: Any, count: Any, fmt: Format, short: Tiles | None) -> Any:
    """E as float32, computed in float32 or float64."""
    if exact is np.float32:
        return of_tiles(n, t, shape, count, fmt, short)
    n.dtype = exact
    t, count = (n("Cast", value, to=n.ir.DataType.DOUBLE) for value in (t, count))
    E = n("Cast", of_tiles(n, t, shape, count, fmt, short), to=n.ir.DataType.FLOAT)
    n.dtype = np.float32
    return E


def of_tiles(n: Nodes, t: Any, shape: Any, count: Any, fmt: Format, short: Tiles | None) -> Any:
    """E of integers t, in the order of `shape`; all numbers of the body's own type. Arguments as of `overwrite_function`."""
    laid = n("Reshape", t, shape)
    if short is None:
        return effective(n, laid, count, fmt)
    filler = fmt.t_max if fmt.evict else fmt.unit  # ones, neither zeros nor outliers, come last; where ones give way, outliers
    laid = n("Pad", laid, n.ints([0] * 6 + [short.short, 0]), n.number(filler))
    E = effective(n, n("Reshape", laid, n.ints([0, short.count, short.lanes, -1])), count, fmt)
    E = n("Reshape", E, n.ints([0, short.groups, short.channels + short.short, -1]))
    return n("Slice", E, n.ints([0]), n.ints([short.channels]), n.ints([2]))


def _level(n: Nodes, t: Any, fmt: Format) -> Any:
    return n("Floor", n("Mul", n("Add", t, n.number(fmt.unit // 2)), n.number(1 / fmt.unit)))


def effective(n: Nodes, t: Any, count: Any, fmt: Format) -> Any:
    """E of integers t [A, T, L, B], as floating-point numbers: tiles of L lanes along dim 2."""
    level = _level(n, t, fmt)
    digit = n("Clip", level, n.number(fmt.digit_min), n.number(fmt.digit_max))
    normal, zero = n("Equal", level, digit), n("Equal", level, n.number(0))
    nearest = _pooled(n, n("Where", zero, count, n.number(0)), 0, fmt.cascade)
    if fmt.evict:
        gone = _gone(n, level, digit, count, normal, zero, nearest, fmt)
        t, level, digit = (n("Where", gone, n.number(0), value) for value in (t, level, digit))
        zero = n("Or", zero, gone)
        nearest = _pooled(n, n("Where", zero, count, n.number(0)), 0, fmt.cascade)
    lanes = _Lanes(t, digit, count, normal, nearest, n("And", n("Greater", nearest, n.number(0)), n("Not", zero)))
    by_range, by_precision = (_largest if fmt.policy == "largest" else _first)(n, lanes, fmt)
    whole = digit if by_range is None else n("Where", by_range, level, digit)
    E = n("Mul", whole, n.number(1 << fmt.fraction_bits)) if fmt.fraction_bits else whole
    if by_precision is None:
        return E
    fine = n("Floor", n("Mul", n("Add", t, n.number(1)), n.number(0.5)))
    return n("Where", by_precision, n("Clip", fine, n.number(fmt.fine_min), n.number(fmt.fine_max)), E)


@dataclass(frozen=True)
class _Lanes:
    """Values of all lanes. nearest: M; reached: a nonzero lane with a zero in reach."""

    t: Any
    digit: Any
    count: Any
    normal: Any
    nearest: Any
    reached: Any


def _pooled(n: Nodes, values: Any, before: int, behind: int) -> Any:
    """The greatest of the lanes from `before` before each to `behind` behind it."""
    if not before + behind:
        return values
    return n("MaxPool", values, kernel_shape=[before + behind + 1, 1], pads=[before, 0, behind, 0])


def _gone(n: Nodes, level: Any, digit: Any, count: Any, normal: Any, zero: Any, nearest: Any, fmt: Format) -> Any:
    """Which lanes give way to an outlier. All compared numbers are below (L + 2) (c + 3) or 8 (L + 2)."""
    c, rising, outlier = fmt.cascade, n("Neg", count), n("Not", normal)
    near = n("And", outlier, n("Greater", nearest, n.number(0)))
    key = n("Add", n("Mul", nearest, n.number(c + 2)), rising)  # the nearer the zero lies to the edge behind, the later it comes
    served = n("And", near, n("Equal", _pooled(n, n("Where", near, key, n.number(NONE)), 0, c - 1), key))  # the last one before a zero
    takes = n("Where", served, n.number(0), n("Clip", n("Abs", n("Sub", level, digit)), None, n.number(fmt.evict)))  # 0 of normal values
    stop = n("Where", n("Or", outlier, zero), n("Add", n("Mul", rising, n.number(8)), takes), n.number(NONE))
    before = _pooled(n, stop, c, 0)
    place = n("Floor", n("Mul", before, n.number(1 / 8)))
    small = n("Not", n("Greater", n("Abs", level), n("Sub", before, n("Mul", place, n.number(8)))))
    may = n("And", n("And", normal, n("Not", zero)), small)
    key = n("Add", n("Mul", place, n.number(c + 2)), count)  # later stops first, then the first lane behind one
    return n("And", may, n("Equal", _pooled(n, n("Where", may, key, n.number(NONE)), c - 1, 0), key))


def _first(n: Nodes, lanes: _Lanes, fmt: Format) -> tuple[Any, Any]:
    """(by range, by precision), None where the mode is off."""
    c, by_range, by_precision = fmt.cascade, None, None
    if fmt.range_on:
        key = n("Sub", lanes.count, n("Mul", lanes.nearest, n.number(c + 2)))  # p (c + 2) - j, but for a constant
        outlier = n("And", lanes.reached, n("Not", lanes.normal))
        best = _pooled(n, n("Where", outlier, key, n.number(NONE)), c - 1, 0)
        by_range = n("And", outlier, n("Equal", best, key))
    if fmt.precision_on:
        beside = n("Equal", lanes.nearest, n("Sub", lanes.count, n.number(1)))
        by_precision = n("And", n("And", lanes.reached, lanes.normal), beside)
        if fmt.range_on:
            by_precision = n("And", by_precision, n("Less", best, key))
    return by_range, by_precision


def _largest(n: Nodes, lanes: _Lanes, fmt: Format) -> tuple[Any, Any]:
    """The same for policy `largest`: outliers before normal values, then by clipping error, then the lower lane."""
    c, candidate = fmt.cascade, lanes.reached
    error = n("Abs", n("Sub", lanes.t, n("Mul", lanes.digit, n.number(fmt.unit))))
    if fmt.range_on and fmt.precision_on:
        error = n("Where", lanes.normal, error, n("Add", error, n.number(_beyond(fmt))))
    else:
        candidate = n("And", candidate, n("Not", lanes.normal) if fmt.range_on else lanes.normal)
    rank = n("Add", n("Mul", error, n.number(c + 1)), n("Sub", lanes.count, lanes.nearest))  # p - j is count - M
    nearer = n("Mul", lanes.nearest, n.number(_ways(fmt)))
    before, behind = n("Sub", rank, nearer), n("Add", rank, nearer)
    first = n("Equal", _pooled(n, n("Where", candidate, before, n.number(NONE)), c - 1, 0), before)
    last = n("Equal", _pooled(n, n("Where", candidate, behind, n.number(NONE)), 0, c - 1), behind)
    best = n("And", candidate, n("And", first, last))
    by_range = n("And", best, n("Not", lanes.normal)) if fmt.range_on else None
    return by_range, n("And", best, lanes.normal) if fmt.precision_on else None


def _beyond(fmt: Format) -> int:
    """More than the clipping error of any normal value."""
    return fmt.unit // 2 + 1


def _ways(fmt: Format) -> int:
    """In how many ways candidates of one reach may rank under policy `largest`."""
    greatest = max(fmt.t_max - fmt.digit_max * fmt.unit, fmt.digit_min * fmt.unit - fmt.t_min) + _beyond(fmt)
    return (fmt.cascade + 2) * (greatest + 1)


def exact_type(fmt: Format, lanes: int) -> Any:
    """The floating-point type that holds every number of a tile of that many lanes. FormatError where float64 does not."""
    greatest = (lanes + 2) * max(_ways(fmt) if fmt.policy == "largest" else 0, fmt.cascade + 3, 8)
    if greatest >= DOUBLE:
        raise FormatError(f"{fmt.label} over {lanes} lanes has no ONNX form: it needs integers up to {greatest:,}")
    return np.float32 if max(greatest, 2 * fmt.t_max) < SINGLE else np.float64
