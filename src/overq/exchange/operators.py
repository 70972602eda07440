"""ONNX operators without weights as functions of PyTorch, one builder each: Spec -> module or function of the inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from overq.exchange import layers, places
from overq.exchange.spec import DTYPES, Built, Computed, Spec

Builder = Callable[[Spec], Built]


def plain(function: Callable[..., Any]) -> Builder:
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


def _cast(spec: Spec) -> Built:
    dtype = DTYPES.get(spec.get("to"))
    spec.refuse_unless(dtype is not None, "to")
    if dtype == torch.float32:  # a network that runs in float64 stays there
        return lambda x: x if x.dtype == torch.float64 else x.to(dtype)
    return lambda x: x.to(dtype)


def _constant_of_shape(spec: Spec) -> Built:
    value = spec.get("value")
    fill = torch.zeros(1) if value is None else value
    return lambda shape: torch.full(places.as_list(shape), fill.item(), dtype=fill.dtype)


def _lrn(spec: Spec) -> Built:
    size, alpha, beta, bias = spec.get("size"), spec.get("alpha", 1e-4), spec.get("beta", 0.75), spec.get("bias", 1.0)
    spec.refuse_unless(size % 2 == 1, "size")
    return nn.LocalResponseNorm(size, alpha, beta, bias)


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
    "Add": plain(lambda a, b: a + b), "Sub": plain(lambda a, b: a - b), "Mul": plain(lambda a, b: a * b), "Div": _divide,
    "Pow": plain(lambda a, b: a**b), "Sum": _many(lambda a, b: a + b), "Mean": _many(lambda a, b: a + b, mean=True),
    "Max": _many(torch.maximum), "Min": _many(torch.minimum), "Neg": plain(torch.neg), "Abs": plain(torch.abs),
    "Sqrt": plain(torch.sqrt), "Exp": plain(torch.exp), "Log": plain(torch.log), "Erf": plain(torch.erf),
    "Reciprocal": plain(torch.reciprocal), "Floor": plain(torch.floor), "Ceil": plain(torch.ceil), "Round": plain(torch.round),
    "Sin": plain(torch.sin), "Cos": plain(torch.cos), "Sign": plain(torch.sign), "Not": plain(torch.logical_not),
    "Equal": plain(lambda a, b: a == b), "Greater": plain(lambda a, b: a > b), "Less": plain(lambda a, b: a < b),
    "GreaterOrEqual": plain(lambda a, b: a >= b), "LessOrEqual": plain(lambda a, b: a <= b),
    "And": plain(torch.logical_and), "Or": plain(torch.logical_or), "Where": plain(torch.where),
    "Xor": plain(torch.logical_xor), "IsNaN": plain(torch.isnan), "Mod": _mod, "Trilu": _trilu, "CumSum": _cumsum,
    "GatherElements": places.gather_elements, "Concat": places.concat, "Split": places.split, "Slice": places.cut,
    "Gather": places.gather, "Reshape": places.reshape, "Flatten": places.flatten, "Transpose": places.transpose,
    "Squeeze": places.squeeze, "Unsqueeze": places.unsqueeze, "Pad": places.pad, "Expand": plain(places.expand),
    "Tile": plain(lambda x, times: x.repeat(places.as_list(times))), "DepthToSpace": places.depth_to_space,
    "SpaceToDepth": places.space_to_depth, "Resize": places.resize, "Identity": plain(lambda x: x),
    "Dropout": plain(lambda x, *_: x), "Cast": _cast,
    "ConstantOfShape": _constant_of_shape,
    "Range": plain(lambda *ends: torch.arange(*(places.as_list(end)[0] for end in ends))),
    "Einsum": _einsum, "ArgMax": _arg(torch.argmax), "ArgMin": _arg(torch.argmin),
    "ReduceMean": _reduce(torch.mean), "ReduceSum": _reduce(torch.sum), "ReduceMax": _reduce(torch.amax), "ReduceMin": _reduce(torch.amin),
    "ReduceProd": _reduce(_product), "ReduceL1": _reduce(lambda x, dims, keepdim: x.abs().sum(dims, keepdim=keepdim)),
    "ReduceL2": _reduce(lambda x, dims, keepdim: x.square().sum(dims, keepdim=keepdim).sqrt()),
    "ReduceSumSquare": _reduce(lambda x, dims, keepdim: x.square().sum(dims, keepdim=keepdim)),
    "QuantizeLinear": plain(lambda x, *_: x), "DequantizeLinear": _dequantize,
}  # fmt: skip
