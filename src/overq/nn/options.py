"""Options of operations, each read once: what torch calls them, by position or by name, to a kind of `nn.kinds`.

An argument that is not read here makes the operation Unknown, with the option's name; nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeGuard

from torch import nn

from overq.nn.kinds import (
    AdaptivePool,
    Add,
    Cat,
    Clip,
    Flatten,
    MatMul,
    Move,
    Op,
    Pad,
    Pair,
    Pointwise,
    Pool,
    Reduce,
    Ref,
    Reshape,
    Same,
    Scale,
    Split,
    Unknown,
    Upsample,
)


class OddError(Exception):
    """An argument that no kind has a place for; the words are what `Unknown` says."""


Given = dict[str, Any]


def parse(name: str, args: tuple[Any, ...], named: Given) -> tuple[Op, bool]:
    """(kind, whether the first operand is changed in place) of a function, method or operator.

    name   as torch spells it, without the underscore of in-place forms
    args, named   with Refs in place of other nodes' values
    """
    if name not in FUNCTIONS:
        return Unknown(), False
    parameters, make = FUNCTIONS[name]
    inplace = named.get("inplace") is True
    try:
        given = _bound(parameters.split(), args, named)
        inplace = given.get("inplace") is True
        return make(given), inplace
    except OddError as odd:
        return Unknown(str(odd)), inplace


def parse_module(module: nn.Module, *, training: bool = False) -> tuple[Op, bool]:
    """The same of a module of torch.nn without weights: its attributes are the function's options."""
    if type(module) not in MODULES:
        return Unknown(), False
    name, fixed = MODULES[type(module)]
    if name == "identity":
        return Same(), False
    parameters = FUNCTIONS[name][0].split()[1:]
    options = {p: getattr(module, p) for p in parameters if hasattr(module, p)} | dict(fixed)
    options |= {"training": training} if "training" in parameters else {}
    if name == "pad":
        options["pad"] = module.padding
    return parse(name, (Ref("input"),), options)


ALIASES = {"tensor": "input", "self": "input", "axis": "dim", "keepdims": "keepdim", "split_size": "split_size_or_sections"}


def _bound(parameters: list[str], args: tuple[Any, ...], named: Given) -> Given:
    """Arguments by name. OddError for one that has no place. "**" takes whatever comes: moves are run as they are."""
    if parameters[-1] == "**":
        if "out" in named:
            raise OddError("option out=")
        options = (*args[1:], *(value for key, value in named.items() if key not in ("input", "self")))
        given = _bound(["input"], args[:1], {key: value for key, value in named.items() if key in ("input", "self")})
        return given | {"options": options}
    rest = parameters[-1].removeprefix("*") if parameters[-1].startswith("*") else ""
    names = parameters[:-1] if rest else parameters
    if len(args) > len(names) and not rest:
        raise OddError(f"{len(args)} arguments where {len(names)} are known")
    given = dict(zip(names, args, strict=False))
    if rest:
        given[rest] = args[len(names) :]
    for key, value in named.items():
        key = ALIASES.get(key, key)
        if key not in names and not (key == rest and not given[rest]):
            raise OddError(f"option {key}={value!r}")
        given[key] = (value,) if key == rest else value
    for key, value in given.items():
        if isinstance(value, Ref) and key not in ("input", "other", *([rest] if rest else [])):
            raise OddError(f"option {key} is computed by the network")
    if "input" in names and "other" not in names and not (isinstance(given.get("input"), Ref) and not given["input"].number):
        raise OddError("its input is no tensor of the network")
    return given


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Ref) and not value.number


def _whole(given: Given, key: str, default: Any = None) -> int:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise OddError(f"option {key}={value!r}")
    return value


def _real(given: Given, key: str, default: float) -> float:
    value = given.get(key)
    if value is None:
        return default
    if not _is_number(value):
        raise OddError(f"option {key}={value!r}")
    return float(value)


def _several(value: Any, count: int, key: str) -> tuple[int, ...]:
    values = (value,) * count if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    values = values * count if len(values) == 1 else values
    if len(values) != count or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise OddError(f"option {key}={value!r}")
    return values


def _clamp(given: Given) -> Op:
    return Clip(_real(given, "min", -math.inf), _real(given, "max", math.inf))


def _threshold(given: Given) -> Op:
    at, value = _real(given, "threshold", 0.0), _real(given, "value", 0.0)
    return Clip(at, math.inf) if at == value else Pointwise("threshold")


def _sum(sign: int) -> Callable[[Given], Op]:
    def make(given: Given) -> Op:
        alpha, x, y = given.get("alpha", 1), given.get("input"), given.get("other")
        if not _is_number(alpha):
            raise OddError(f"option alpha={alpha!r}")
        if _is_tensor(x) and _is_tensor(y):
            return Add(float(sign * alpha))
        if _is_tensor(x) and _is_number(y):
            return Scale(1.0, float(sign * alpha * y))
        if _is_number(x) and _is_tensor(y):
            return Scale(float(sign * alpha), float(x))
        raise OddError(f"its operands are {x!r} and {y!r}")

    return make


def _product(given: Given) -> Op:
    x, y = given.get("input"), given.get("other")
    if _is_tensor(x) and _is_tensor(y):
        return Pair("mul")
    tensor, number = (x, y) if _is_tensor(x) else (y, x)
    if not (_is_tensor(tensor) and _is_number(number)):
        raise OddError(f"its operands are {x!r} and {y!r}")
    return Scale(float(number), 0.0)


def _quotient(given: Given) -> Op:
    x, y = given.get("input"), given.get("other")
    if given.get("rounding_mode") is not None:
        raise OddError(f"option rounding_mode={given['rounding_mode']!r}")
    if _is_tensor(x) and _is_tensor(y):
        return Pair("div")
    if _is_tensor(x) and _is_number(y) and y:
        return Scale(1 / y, 0.0)
    if _is_number(x) and _is_tensor(y):
        return Pointwise("div")
    raise OddError(f"its operands are {x!r} and {y!r}")


def _pair(name: str) -> Callable[[Given], Op]:
    def make(given: Given) -> Op:
        if not (_is_tensor(given.get("input")) and _is_tensor(given.get("other"))):
            raise OddError(f"its operands are {given.get('input')!r} and {given.get('other')!r}")
        return Pair(name)

    return make


def _cat(given: Given) -> Op:
    tensors = given.get("tensors")
    if not (isinstance(tensors, (tuple, list)) and tensors and all(map(_is_tensor, tensors))):
        raise OddError("it does not join a list of the network's tensors")
    return Cat(_whole(given, "dim", 0))


def _pad(given: Given) -> Op:
    widths = given.get("pad")
    if not (isinstance(widths, (tuple, list)) and all(isinstance(w, int) for w in widths)):
        raise OddError(f"option pad={widths!r}")
    mode = given.get("mode", "constant")
    if mode not in ("constant", "reflect", "replicate", "circular"):
        raise OddError(f"option mode={mode!r}")
    return Pad(tuple(widths), mode, _real(given, "value", 0.0))


def _max_pool(count: int) -> Callable[[Given], Op]:
    def make(given: Given) -> Op:
        if given.get("return_indices"):
            raise OddError("option return_indices=True")
        kernel = _several(given.get("kernel_size"), count, "kernel_size")
        return Pool("greatest", kernel, *_window(given, kernel), bool(given.get("ceil_mode")))

    return make


def _with_indices(given: Given) -> Op:
    raise OddError("option return_indices=True")


def _avg_pool(count: int) -> Callable[[Given], Op]:
    def make(given: Given) -> Op:
        kernel = _several(given.get("kernel_size"), count, "kernel_size")
        divisor = None if given.get("divisor_override") is None else _whole(given, "divisor_override")
        ceil, include = bool(given.get("ceil_mode")), bool(given.get("count_include_pad", True))
        return Pool("average", kernel, *_window(given, kernel), ceil, include, divisor)

    return make


def _window(given: Given, kernel: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(stride, padding, dilation)."""
    n, stride = len(kernel), given.get("stride")
    return (
        kernel if stride is None or stride == [] else _several(stride, n, "stride"),
        _several(given.get("padding", 0), n, "padding"),
        _several(given.get("dilation", 1), n, "dilation"),
    )


def _adaptive(how: str, count: int) -> Callable[[Given], Op]:
    def make(given: Given) -> Op:
        if given.get("return_indices"):
            raise OddError("option return_indices=True")
        size = given.get("output_size")
        sizes = tuple(size) if isinstance(size, (tuple, list)) else (size,) * count
        if len(sizes) != count or not all(s is None or isinstance(s, int) for s in sizes):
            raise OddError(f"option output_size={size!r}")
        return AdaptivePool(how, sizes)

    return make


def _interpolate(given: Given) -> Op:
    for key, usual in (("mode", "nearest"), ("size", None), ("align_corners", None), ("antialias", False)):
        if given.get(key, usual) not in (usual, None):
            raise OddError(f"option {key}={given[key]!r}")
    factors = given.get("scale_factor")
    values = factors if isinstance(factors, (tuple, list)) else (factors,)
    if not all(_is_number(f) and f >= 1 and f == int(f) for f in values):
        raise OddError(f"option scale_factor={factors!r}")
    return Upsample(tuple(map(int, values)) if isinstance(factors, (tuple, list)) else int(values[0]))


def _reduce(how: str) -> Callable[[Given], Op]:
    def make(given: Given) -> Op:
        if given.get("dtype") is not None:
            raise OddError(f"option dtype={given['dtype']}")
        dims = given.get("dim")
        dims = (dims,) if isinstance(dims, int) else dims
        if dims is not None and not (isinstance(dims, (tuple, list)) and all(isinstance(d, int) for d in dims)):
            raise OddError(f"option dim={dims!r}")
        return Reduce(how, tuple(dims) if dims else None, bool(given.get("keepdim")))

    return make


def _reshape(given: Given) -> Op:
    shape = given["shape"]
    shape = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else tuple(shape)
    if not all((isinstance(s, Ref) and s.number) or (isinstance(s, int) and not isinstance(s, bool)) for s in shape):
        raise OddError(f"option shape={shape!r}")
    return Reshape(shape)


def _dropout(given: Given) -> Op:
    if given.get("training", True) and given.get("p", 0.5):
        raise OddError("option training=True: its values are random")
    return Same("dropout")


def _split(given: Given) -> Op:
    sizes = given.get("split_size_or_sections")
    if isinstance(sizes, (tuple, list)) and all(isinstance(s, int) for s in sizes):
        return Split(_whole(given, "dim", 0), tuple(sizes))
    return Split(_whole(given, "dim", 0), _whole(given, "split_size_or_sections"))


def _same(name: str) -> Callable[[Given], Op]:
    return lambda given: Same(name)


def _clip(low: float, high: float) -> Callable[[Given], Op]:
    return lambda given: Clip(low, high)


def _pointwise(name: str) -> Callable[[Given], Op]:
    return lambda given: Pointwise(name)


def _moved(name: str) -> Callable[[Given], Op]:
    def make(given: Given) -> Op:
        options = given["options"]
        options = options[0] if len(options) == 1 and isinstance(options[0], (tuple, list)) else options
        plain = all(isinstance(d, int) and not isinstance(d, bool) for d in options)
        return Move(name, tuple(options) if plain else None)

    return make


POINTWISE = {
    **dict.fromkeys(("silu", "mish", "selu", "hardswish", "hardsigmoid"), "input inplace"),
    **dict.fromkeys(("elu", "celu"), "input alpha inplace"),
    **dict.fromkeys(("sigmoid", "tanh", "softsign", "logsigmoid", "tanhshrink", "exp", "log", "sqrt", "rsqrt", "abs", "square"), "input"),
    **dict.fromkeys(("reciprocal", "sin", "cos", "erf", "floor", "ceil", "sign"), "input"),
    **dict.fromkeys(("hardshrink", "softshrink"), "input lambd"),
    "leaky_relu": "input negative_slope inplace",
    "gelu": "input approximate",
    "softplus": "input beta threshold",
    "round": "input decimals",
    "pow": "input exponent",
}
MOVES = ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze", "unsqueeze", "expand", "repeat", "tile", "t",
         "flip", "roll", "narrow", "select", "unflatten", "unbind", "tensor_split", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
         "view_as", "reshape_as", "expand_as")  # fmt: skip
MANY = ("unbind", "tensor_split")  # moves that yield several tensors

FUNCTIONS: dict[str, tuple[str, Callable[[Given], Op]]] = {
    "relu": ("input inplace", _clip(0.0, math.inf)),
    "relu6": ("input inplace", _clip(0.0, 6.0)),
    "hardtanh": ("input min_val max_val inplace", lambda g: Clip(_real(g, "min_val", -1.0), _real(g, "max_val", 1.0))),
    "threshold": ("input threshold value inplace", _threshold),
    **dict.fromkeys(("clamp", "clip"), ("input min max", _clamp)),
    "clamp_min": ("input min", _clamp),
    "clamp_max": ("input max", _clamp),
    "add": ("input other alpha", _sum(1)),
    **dict.fromkeys(("sub", "subtract"), ("input other alpha", _sum(-1))),
    **dict.fromkeys(("mul", "multiply"), ("input other", _product)),
    **dict.fromkeys(("div", "divide", "true_divide", "truediv"), ("input other rounding_mode", _quotient)),
    **dict.fromkeys(("neg", "negative"), ("input", lambda g: Scale(-1.0, 0.0))),
    "maximum": ("input other", _pair("maximum")),
    "minimum": ("input other", _pair("minimum")),
    **dict.fromkeys(("matmul", "bmm", "mm"), ("input other", lambda g: MatMul())),
    **dict.fromkeys(("cat", "concat", "concatenate"), ("tensors dim", _cat)),
    "stack": ("tensors dim", lambda g: (_cat(g), Move("stack"))[1]),
    "pad": ("input pad mode value", _pad),
    "mean": ("input dim keepdim dtype", _reduce("average")),
    "sum": ("input dim keepdim dtype", _reduce("sum")),
    "amax": ("input dim keepdim", _reduce("greatest")),
    "amin": ("input dim keepdim", _reduce("least")),
    **{f"max_pool{n}d": ("input kernel_size stride padding dilation ceil_mode return_indices", _max_pool(n)) for n in (1, 2)},
    **dict.fromkeys((f"{kind}max_pool{n}d_with_indices" for kind in ("", "adaptive_") for n in (1, 2)), ("input **", _with_indices)),
    "avg_pool1d": ("input kernel_size stride padding ceil_mode count_include_pad", _avg_pool(1)),
    "avg_pool2d": ("input kernel_size stride padding ceil_mode count_include_pad divisor_override", _avg_pool(2)),
    **{f"adaptive_avg_pool{n}d": ("input output_size", _adaptive("average", n)) for n in (1, 2)},
    **{f"adaptive_max_pool{n}d": ("input output_size return_indices", _adaptive("greatest", n)) for n in (1, 2)},
    "interpolate": ("input size scale_factor mode align_corners recompute_scale_factor antialias", _interpolate),
    "flatten": ("input start_dim end_dim", lambda g: Flatten(_whole(g, "start_dim", 0), _whole(g, "end_dim", -1))),
    **dict.fromkeys(("view", "reshape"), ("input *shape", _reshape)),
    "chunk": ("input chunks dim", lambda g: Split(_whole(g, "dim", 0), chunks=_whole(g, "chunks"))),
    "split": ("input split_size_or_sections dim", _split),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
                    ("input p training inplace", _dropout)),
    **{name: ("input", _same(name)) for name in ("contiguous", "clone", "detach")},
    **{name: (options, _pointwise(name)) for name, options in POINTWISE.items()},
    **{name: ("input **", _moved(name)) for name in MOVES},
}  # fmt: skip

# module -> (function, options that are not its attributes); Identity's own name is no function
MODULES: dict[type[nn.Module], tuple[str, tuple[tuple[str, Any], ...]]] = {
    nn.Identity: ("identity", ()),
    nn.ReLU: ("relu", ()), nn.ReLU6: ("relu6", ()), nn.Hardtanh: ("hardtanh", ()), nn.Threshold: ("threshold", ()),
    nn.Flatten: ("flatten", ()),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout), ("dropout", ())),
    nn.MaxPool1d: ("max_pool1d", ()), nn.MaxPool2d: ("max_pool2d", ()),
    nn.AvgPool1d: ("avg_pool1d", ()), nn.AvgPool2d: ("avg_pool2d", ()),
    nn.AdaptiveAvgPool1d: ("adaptive_avg_pool1d", ()), nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d", ()),
    nn.AdaptiveMaxPool1d: ("adaptive_max_pool1d", ()), nn.AdaptiveMaxPool2d: ("adaptive_max_pool2d", ()),
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d), ("pad", ())),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d), ("pad", (("mode", "reflect"),))),
    **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d), ("pad", (("mode", "replicate"),))),
    **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d), ("pad", (("mode", "circular"),))),
    nn.Upsample: ("interpolate", ()), nn.UpsamplingNearest2d: ("interpolate", ()),
    nn.PixelShuffle: ("pixel_shuffle", ()), nn.PixelUnshuffle: ("pixel_unshuffle", ()), nn.ChannelShuffle: ("channel_shuffle", ()),
    nn.Unflatten: ("unflatten", ()),
    nn.Sigmoid: ("sigmoid", ()), nn.Tanh: ("tanh", ()), nn.GELU: ("gelu", ()), nn.SiLU: ("silu", ()), nn.Mish: ("mish", ()),
    nn.Hardswish: ("hardswish", ()), nn.Hardsigmoid: ("hardsigmoid", ()), nn.LeakyReLU: ("leaky_relu", ()), nn.ELU: ("elu", ()),
    nn.SELU: ("selu", ()), nn.CELU: ("celu", ()), nn.Softplus: ("softplus", ()),
}  # fmt: skip
