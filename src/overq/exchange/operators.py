"""ONNX operators without weights as functions of PyTorch, one builder each: Spec -> module or function of the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from overq.exchange import layers
from overq.exchange.spec import DTYPES, Built, Computed, Spec, UnsupportedError

Builder = Callable[[Spec], Built]


def _plain(function: Callable[..., Any]) -> Builder:
    return lambda spec: function


def _module(make: Callable[[], nn.Module]) -> Builder:
    return lambda spec: make()


def _clip(spec: Spec) -> Built:
    if "min" in spec.attributes or "max" in spec.attributes or spec.opset < 11:
        low, high = spec.get("min"), spec.get("max")
    else:
        low, high = (None if spec.input(i) is None else float(spec.constant(i, "a limit")) for i in (1, 2))
    if (low, high) == (0.0, 6.0):
        return nn.ReLU6()
    return (lambda x, *_: x) if low is None and high is None else lambda x, *_: torch.clamp(x, low, high)


def _softmax(function: Callable[..., Tensor]) -> Builder:
    def build(spec: Spec) -> Built:
        if spec.opset >= 13:
            axis = spec.get("axis", -1)
            return lambda x: function(x, dim=axis)
        axis = spec.get("axis", 1)  # over all dims from this one on
        return (lambda x: function(x, dim=-1)) if axis == -1 else lambda x: function(x.flatten(axis), dim=-1).reshape(x.shape)

    return build


def _divide(spec: Spec) -> Built:
    whole = all(not (isinstance(v, Tensor) and v.is_floating_point()) for v in spec.inputs) and any(
        isinstance(v, Tensor) for v in spec.inputs
    )
    return (lambda a, b: torch.div(a, b, rounding_mode="trunc")) if whole else lambda a, b: a / b


def _many(function: Callable[[Any, Any], Any], mean: bool = False) -> Builder:
    def build(spec: Spec) -> Built:
        def run(*values: Any) -> Any:
            total = values[0]
            for value in values[1:]:
                total = function(total, value)
            return total / len(values) if mean else total

        return run

    return build


def _concat(spec: Spec) -> Built:
    axis = spec.get("axis")
    return lambda *values: torch.cat(values, axis)


def _split(spec: Spec) -> Built:
    axis, sizes, count = spec.get("axis", 0), spec.ints(1, "split"), spec.get("num_outputs", spec.outputs)
    if sizes is not None:
        return lambda x, *_: torch.split(x, sizes, axis)
    return lambda x, *_: torch.chunk(x, count, axis)


def _slice(spec: Spec) -> Built:
    if "starts" in spec.attributes:  # opset 9 and before
        raise UnsupportedError("opset 9 and before")

    def run(x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
        starts, ends = _list(starts), _list(ends)
        axes = list(range(len(starts))) if axes is None else _list(axes)
        for start, end, axis, step in zip(starts, ends, axes, [1] * len(starts) if steps is None else _list(steps), strict=True):
            if step < 0:
                size = x.shape[axis]
                places = range(size)[slice(start, None if end < -size else end, step)]
                x = x.index_select(axis, torch.tensor(list(places), device=x.device))
            else:
                cut = slice(start, end, step)
                whole = slice(None)
                x = x[(whole,) * axis + (cut,)] if axis >= 0 else x[(..., cut) + (whole,) * (-axis - 1)]
        return x

    return run


def _list(value: Any) -> list[Any]:
    return value.flatten().tolist() if isinstance(value, Tensor) else value if isinstance(value, list) else [value]


def _gather(spec: Spec) -> Built:
    axis, index = spec.get("axis", 0), spec.input(1)
    if isinstance(index, Tensor) and index.ndim == 0:
        place = int(index)
        return lambda x, _: x.select(axis, place)

    def run(x: Tensor, at: Tensor) -> Tensor:
        at = torch.where(at < 0, at + x.shape[axis], at)
        return x.index_select(axis, at.flatten()).unflatten(axis, at.shape) if at.ndim != 1 else x.index_select(axis, at)

    return run


def _gather_elements(spec: Spec) -> Built:
    axis = spec.get("axis", 0)
    return lambda x, at: torch.gather(x, axis, torch.where(at < 0, at + x.shape[axis], at))


def _mod(spec: Spec) -> Built:
    return torch.fmod if spec.get("fmod", 0) else torch.remainder


def _trilu(spec: Spec) -> Built:
    place = 0 if spec.input(1) is None else int(spec.constant(1, "its diagonal"))
    function = torch.triu if spec.get("upper", 1) else torch.tril
    return lambda x, *_: function(x, place)


def _cumsum(spec: Spec) -> Built:
    for option in ("exclusive", "reverse"):
        spec.refuse_unless(not spec.get(option, 0), option)
    axis = int(spec.constant(1, "its axis"))
    return lambda x, *_: x.cumsum(axis)


def _reshape(spec: Spec) -> Built:
    spec.refuse_unless(not spec.get("allowzero", 0), "allowzero")

    def run(x: Tensor, shape: Any) -> Tensor:
        return x.reshape([x.shape[i] if isinstance(size, int) and size == 0 else size for i, size in enumerate(_list(shape))])

    return run


def _flatten(spec: Spec) -> Built:
    axis = spec.get("axis", 1)
    axis = axis if axis >= 0 else axis + spec.rank()
    if axis == 1:
        return nn.Flatten()
    return (lambda x: x.reshape(1, -1)) if axis == 0 else lambda x: x.flatten(0, axis - 1).flatten(1)


def _transpose(spec: Spec) -> Built:
    order = spec.get("perm") or list(reversed(range(spec.rank())))
    return lambda x: x.permute(order)


def _squeeze(spec: Spec) -> Built:
    axes = spec.ints(1, "axes")
    return (lambda x, *_: x.squeeze()) if axes is None else lambda x, *_: x.squeeze(tuple(axes))


def _unsqueeze(spec: Spec) -> Built:
    axes = spec.ints(1, "axes") or []
    axes = axes if len(axes) == 1 else sorted(a % (spec.rank() + len(axes)) for a in axes)

    def run(x: Tensor, *_: Any) -> Tensor:
        for axis in axes:
            x = x.unsqueeze(axis)
        return x

    return run


PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(spec: Spec) -> Built:
    mode, pads = PAD_MODES[spec.get("mode", "constant")], spec.ints(1, "pads") or []
    value = spec.get("value", 0.0) if spec.input(2) is None else float(spec.constant(2, "its value"))
    if spec.input(3) is not None:
        axes, rank = spec.ints(3, "axes") or [], spec.rank()
        full = [0] * 2 * rank
        for i, axis in enumerate(axes):
            full[axis % rank], full[axis % rank + rank] = pads[i], pads[i + len(axes)]
        pads = full
    count = len(pads) // 2
    widths = [w for i in reversed(range(count)) for w in (pads[i], pads[count + i])]
    while len(widths) > 2 and not any(widths[-2:]):
        widths = widths[:-2]
    return lambda x, *_: F.pad(x, widths, mode, value) if mode == "constant" else F.pad(x, widths, mode)


def _reduce(function: Callable[..., Tensor]) -> Builder:
    def build(spec: Spec) -> Built:
        axes, keep = spec.ints(1, "axes"), bool(spec.get("keepdims", 1))
        if not axes and spec.get("noop_with_empty_axes", 0):
            return lambda x, *_: x
        dims = tuple(axes) if axes else tuple(range(spec.rank()))
        return lambda x, *_: function(x, dims, keepdim=keep)

    return build


def _product(x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    for dim in sorted((d % x.ndim for d in dims), reverse=True):
        x = x.prod(dim, keepdim=keepdim)
    return x


def _resize(spec: Spec) -> Built:
    mode, coordinates = spec.get("mode", "nearest"), spec.get("coordinate_transformation_mode", "half_pixel")
    rounding, rank = spec.get("nearest_mode", "round_prefer_floor"), spec.rank()
    for option, usual in (("antialias", 0), ("axes", None), ("exclude_outside", 0), ("keep_aspect_ratio_policy", "stretch")):
        spec.refuse_unless(spec.get(option, usual) == usual, option)
    scales = spec.input(2)
    given = scales.tolist() if isinstance(scales, Tensor) and scales.numel() else None
    if given is None and spec.input(3) is None:
        raise UnsupportedError("its scales are computed while it runs")
    if given is not None and given[:2] != [1, 1]:
        raise UnsupportedError(f"it scales batch or channels by {given[:2]}")
    whole = given is not None and all(s == int(s) for s in given)
    options: dict[str, Any] = {"mode": mode}
    if mode == "nearest":
        exact = coordinates == "asymmetric" and rounding == "floor"
        halves = whole and coordinates in ("half_pixel", "pytorch_half_pixel") and rounding in ("round_prefer_floor", "round_prefer_ceil")
        twice = whole and coordinates == "asymmetric" and rounding == "round_prefer_floor" and given is not None and max(given) <= 2
        spec.refuse_unless(exact or halves or twice, "coordinate_transformation_mode" if rounding == "floor" else "nearest_mode")
    else:
        options["mode"] = {"linear": {3: "linear", 4: "bilinear", 5: "trilinear"}, "cubic": {4: "bicubic"}}.get(mode, {}).get(rank)
        spec.refuse_unless(options["mode"] is not None and (mode != "cubic" or spec.get("cubic_coeff_a", -0.75) == -0.75), "mode")
        spec.refuse_unless(coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners"), "coordinate_transformation_mode")
        options["align_corners"] = coordinates == "align_corners"

    def run(x: Tensor, *more: Any) -> Tensor:
        if given is not None:
            return F.interpolate(x, scale_factor=[int(s) if whole else s for s in given[2:]], **options)
        return F.interpolate(x, size=_list(more[-1])[2:], **options)

    return run


def _depth_to_space(spec: Spec) -> Built:
    size = spec.get("blocksize")
    if spec.get("mode", "DCR") == "CRD":
        return nn.PixelShuffle(size)

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(n, c // size**2, h * size, w * size)

    return run


def _space_to_depth(spec: Spec) -> Built:
    size = spec.get("blocksize")

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(n, c * size**2, h // size, w // size)

    return run


def _cast(spec: Spec) -> Built:
    dtype = DTYPES.get(spec.get("to"))
    spec.refuse_unless(dtype is not None, "to")
    if dtype == torch.float32:  # a network that runs in float64 stays there
        return lambda x: x if x.dtype == torch.float64 else x.to(dtype)
    return lambda x: x.to(dtype)


def _constant_of_shape(spec: Spec) -> Built:
    value = spec.get("value")
    fill = torch.zeros(1) if value is None else value
    return lambda shape: torch.full(_list(shape), fill.item(), dtype=fill.dtype)


def _lrn(spec: Spec) -> Built:
    size, alpha, beta, bias = spec.get("size"), spec.get("alpha", 1e-4), spec.get("beta", 0.75), spec.get("bias", 1.0)
    spec.refuse_unless(size % 2 == 1, "size")
    return nn.LocalResponseNorm(size, alpha, beta, bias)


def _expand(x: Tensor, shape: Any) -> Tensor:
    return x * torch.ones(_list(shape), dtype=x.dtype, device=x.device)


def _leaky(spec: Spec) -> Built:
    return nn.LeakyReLU(spec.get("alpha", 0.01))


def _hard_sigmoid(spec: Spec) -> Built:
    alpha, beta = spec.get("alpha", 0.2), spec.get("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0)


def _gelu(spec: Spec) -> Built:
    return nn.GELU(approximate=spec.get("approximate", "none"))


def _arg(function: Callable[..., Tensor]) -> Builder:
    def build(spec: Spec) -> Built:
        spec.refuse_unless(not spec.get("select_last_index", 0), "select_last_index")
        axis, keep = spec.get("axis", 0), bool(spec.get("keepdims", 1))
        return lambda x: function(x, dim=axis, keepdim=keep)

    return build


def _einsum(spec: Spec) -> Built:
    equation = spec.get("equation")
    return lambda *values: torch.einsum(equation, *values)


def _dequantize(spec: Spec) -> Built:
    """Of constants: real numbers. Of activations, which were not quantized here: nothing."""
    integers = spec.input(0)
    if isinstance(integers, Computed):
        return lambda x, *_: x
    scale = spec.constant(1, "its scale")
    zero = torch.zeros_like(scale) if spec.input(2) is None else spec.constant(2, "its zero point")
    axis = spec.get("axis", 1)
    spec.refuse_unless(not spec.get("block_size", 0), "block_size")

    def run(x: Tensor, *_: Any) -> Tensor:
        shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)] if scale.numel() > 1 else []
        return (x.float() - zero.float().reshape(shape)) * scale.reshape(shape)

    return run


OPERATORS: dict[str, Builder] = {
    "Conv": layers.conv, "ConvTranspose": layers.conv_transpose, "Gemm": layers.gemm, "MatMul": layers.matmul,
    "BatchNormalization": layers.batch_norm, "InstanceNormalization": layers.instance_norm, "LayerNormalization": layers.layer_norm,
    "MaxPool": layers.max_pool, "AveragePool": layers.average_pool, "GlobalAveragePool": layers.global_pool,
    "GlobalMaxPool": layers.global_pool, "PRelu": layers.prelu, "LRN": _lrn,
    "Relu": _module(nn.ReLU), "Sigmoid": _module(nn.Sigmoid), "Tanh": _module(nn.Tanh), "HardSwish": _module(nn.Hardswish),
    "Mish": _module(nn.Mish), "LeakyRelu": _leaky, "HardSigmoid": _hard_sigmoid, "Gelu": _gelu, "Clip": _clip,
    "Elu": lambda spec: nn.ELU(spec.get("alpha", 1.0)), "Softplus": _module(nn.Softplus), "Softsign": _module(nn.Softsign),
    "Selu": _module(nn.SELU), "Celu": lambda spec: nn.CELU(spec.get("alpha", 1.0)),
    "Softmax": _softmax(F.softmax), "LogSoftmax": _softmax(F.log_softmax),
    "Add": _plain(lambda a, b: a + b), "Sub": _plain(lambda a, b: a - b), "Mul": _plain(lambda a, b: a * b), "Div": _divide,
    "Pow": _plain(lambda a, b: a**b), "Sum": _many(lambda a, b: a + b), "Mean": _many(lambda a, b: a + b, mean=True),
    "Max": _many(torch.maximum), "Min": _many(torch.minimum), "Neg": _plain(torch.neg), "Abs": _plain(torch.abs),
    "Sqrt": _plain(torch.sqrt), "Exp": _plain(torch.exp), "Log": _plain(torch.log), "Erf": _plain(torch.erf),
    "Reciprocal": _plain(torch.reciprocal), "Floor": _plain(torch.floor), "Ceil": _plain(torch.ceil), "Round": _plain(torch.round),
    "Sin": _plain(torch.sin), "Cos": _plain(torch.cos), "Sign": _plain(torch.sign), "Not": _plain(torch.logical_not),
    "Equal": _plain(lambda a, b: a == b), "Greater": _plain(lambda a, b: a > b), "Less": _plain(lambda a, b: a < b),
    "GreaterOrEqual": _plain(lambda a, b: a >= b), "LessOrEqual": _plain(lambda a, b: a <= b),
    "And": _plain(torch.logical_and), "Or": _plain(torch.logical_or), "Where": _plain(torch.where),
    "Xor": _plain(torch.logical_xor), "IsNaN": _plain(torch.isnan), "Mod": _mod, "Trilu": _trilu, "CumSum": _cumsum,
    "GatherElements": _gather_elements, "Concat": _concat, "Split": _split, "Slice": _slice, "Gather": _gather,
    "Reshape": _reshape, "Flatten": _flatten,
    "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Pad": _pad, "Expand": _plain(_expand),
    "Tile": _plain(lambda x, times: x.repeat(_list(times))), "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth,
    "Resize": _resize, "Identity": _plain(lambda x: x), "Dropout": _plain(lambda x, *_: x), "Cast": _cast,
    "ConstantOfShape": _constant_of_shape,
    "Range": _plain(lambda *ends: torch.arange(*(_list(end)[0] for end in ends))),
    "Einsum": _einsum, "ArgMax": _arg(torch.argmax), "ArgMin": _arg(torch.argmin),
    "ReduceMean": _reduce(torch.mean), "ReduceSum": _reduce(torch.sum), "ReduceMax": _reduce(torch.amax), "ReduceMin": _reduce(torch.amin),
    "ReduceProd": _reduce(_product), "ReduceL1": _reduce(lambda x, dims, keepdim: x.abs().sum(dims, keepdim=keepdim)),
    "ReduceL2": _reduce(lambda x, dims, keepdim: x.square().sum(dims, keepdim=keepdim).sqrt()),
    "ReduceSumSquare": _reduce(lambda x, dims, keepdim: x.square().sum(dims, keepdim=keepdim)),
    "QuantizeLinear": _plain(lambda x, *_: x), "DequantizeLinear": _dequantize,
}  # fmt: skip


def _picked(sizes: Any, index: Any) -> Any:
    return sizes[index] if isinstance(index, int) else [sizes[i] for i in index]


def _cut(sizes: list[Any], start: Any, end: Any, axes: Any = None, steps: Any = None) -> list[Any]:
    return sizes[slice(_list(start)[0], _list(end)[0], 1 if steps is None else _list(steps)[0])]


def _element(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of single numbers and lists, which a single number or a list of one joins."""

    def run(*values: Any) -> Any:
        if not any(isinstance(v, list) for v in values):
            return function(*values)
        count = max(len(v) for v in values if isinstance(v, list))
        columns = ((v * count if len(v) == 1 else v) if isinstance(v, list) else [v] * count for v in values)
        return [function(*row) for row in zip(*columns, strict=True)]

    return run


def _filled(spec: Spec) -> Built:
    value = spec.get("value")
    fill = 0 if value is None else int(value)
    return lambda shape: [fill] * shape[0]


def _ratio(spec: Spec) -> Built:
    """Whole for extents, not so for what was cast to real numbers."""
    return _element((lambda a, b: a / b) if spec.get("real") else lambda a, b: a // b)


# Shape arithmetic on lists of ints, and single ints, instead of tensors: Spec -> function
EXTENTS: dict[str, Builder] = {
    "Gather": _plain(_picked),
    "Concat": _plain(lambda *parts: [size for part in parts for size in (part if isinstance(part, list) else [part])]),
    "Unsqueeze": _plain(lambda x, *_: x if isinstance(x, list) else [x]),
    "Squeeze": _plain(lambda x, *_: x[0] if isinstance(x, list) and len(x) == 1 else x),
    "Slice": _plain(_cut),
    "Cast": _plain(lambda x: x), "Reshape": _plain(lambda x, *_: x if isinstance(x, list) else [x]), "Identity": _plain(lambda x: x),
    "Add": _plain(_element(lambda a, b: a + b)), "Sub": _plain(_element(lambda a, b: a - b)), "Mul": _plain(_element(lambda a, b: a * b)),
    "ConstantOfShape": _filled, "Div": _ratio, "Sqrt": _plain(_element(lambda a: a**0.5)),
    "Mod": _plain(_element(lambda a, b: a % b)), "Not": _plain(_element(lambda a: not a)),
    "Equal": _plain(_element(lambda a, b: a == b)), "Where": _plain(_element(lambda test, a, b: a if test else b)),
    "Max": _plain(_element(max)), "Min": _plain(_element(min)), "ReduceProd": _plain(lambda x, *_: math.prod(x)),
}  # fmt: skip
