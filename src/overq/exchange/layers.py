"""ONNX operators with weights, and pooling, as modules of torch.nn that `overq.quantize` knows."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from overq.exchange.spec import Built, Spec, UnsupportedError

CONVS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
MAX_POOLS: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOLS: dict[int, type[nn.Module]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
GLOBAL_POOLS: dict[tuple[str, int], type[nn.Module]] = {
    ("GlobalAveragePool", 1): nn.AdaptiveAvgPool1d, ("GlobalAveragePool", 2): nn.AdaptiveAvgPool2d,
    ("GlobalAveragePool", 3): nn.AdaptiveAvgPool3d, ("GlobalMaxPool", 1): nn.AdaptiveMaxPool1d,
    ("GlobalMaxPool", 2): nn.AdaptiveMaxPool2d, ("GlobalMaxPool", 3): nn.AdaptiveMaxPool3d,
}  # fmt: skip


class SameSize(nn.Module):
    """auto_pad SAME_UPPER or SAME_LOWER: as many outputs as strides fit into the input; the odd pixel goes behind or before."""

    def __init__(self, kernel: list[int], stride: list[int], dilation: list[int], lower: bool, value: float) -> None:
        super().__init__()
        self.sizes, self.lower, self.value = tuple(zip(kernel, stride, dilation, strict=True)), lower, value

    def forward(self, x: Tensor) -> Tensor:
        widths: list[Any] = []
        for i, (kernel, stride, dilation) in enumerate(self.sizes):
            size = x.shape[2 + i]
            more = (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size
            more = more * (more > 0)
            before = more - more // 2 if self.lower else more // 2
            widths = [before, more - before, *widths]
        return F.pad(x, widths, value=self.value)


def _window(spec: Spec, kernel: list[int]) -> tuple[list[int], list[int], list[int], nn.Module | None, list[int]]:
    """(stride, padding, dilation, what pads before instead, what it adds before and behind: begins then ends)."""
    count = len(kernel)
    stride, dilation = spec.get("strides", [1] * count), spec.get("dilations", [1] * count)
    pads = spec.get("pads", [0] * 2 * count)
    auto = spec.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        if all(s == 1 for s in stride):
            whole = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
            small, large = [w // 2 for w in whole], [w - w // 2 for w in whole]
            pads = [*large, *small] if auto == "SAME_LOWER" else [*small, *large]
        else:
            value = -math.inf if spec.op == "MaxPool" else 0.0
            return stride, [0] * count, dilation, SameSize(kernel, stride, dilation, auto == "SAME_LOWER", value), pads
    elif auto == "VALID":
        pads = [0] * 2 * count
    if pads[:count] == pads[count:]:
        return stride, pads[:count], dilation, None, pads
    return stride, [0] * count, dilation, _padding(pads, -math.inf if spec.op == "MaxPool" else 0.0), pads


class Pad(nn.Module):
    """torch.nn.functional.pad with constants."""

    def __init__(self, widths: tuple[int, ...], value: float) -> None:
        super().__init__()
        self.widths, self.value = widths, value

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.widths, value=self.value)


def _padding(pads: list[int], value: float) -> nn.Module:
    count = len(pads) // 2
    return Pad(tuple(w for i in reversed(range(count)) for w in (pads[i], pads[count + i])), value)


def _behind(pad: nn.Module | None, layer: nn.Module) -> nn.Module:
    return layer if pad is None else nn.Sequential(OrderedDict(pad=pad, layer=layer))


def _given(layer: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """The layer with copies of these as its parameters and buffers; those that it was made with may lie on the meta device."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if name in layer._parameters:
            layer._parameters[name] = nn.Parameter(tensor.clone())
        else:
            layer._buffers[name] = tensor.clone()
    return layer.eval()


def conv(spec: Spec) -> Built:
    weight = spec.input(1)
    if not isinstance(weight, Tensor):
        raise UnsupportedError("its weights are computed while it runs")
    bias = None if spec.input(2) is None else spec.constant(2, "its bias")
    kernel, count, groups = list(weight.shape[2:]), weight.ndim - 2, spec.get("group", 1)
    if count not in CONVS:
        raise UnsupportedError(f"its weights have {weight.ndim} dims")
    stride, padding, dilation, before, _ = _window(spec, kernel)
    options: dict[str, Any] = {"padding": padding, "dilation": dilation, "groups": groups, "bias": bias is not None, "device": "meta"}
    layer = CONVS[count](weight.shape[1] * groups, weight.shape[0], kernel, stride, **options)
    return _behind(before, _given(layer, weight=weight, bias=bias))


def conv_transpose(spec: Spec) -> Built:
    weight = spec.constant(1, "its weight")
    bias = None if spec.input(2) is None else spec.constant(2, "its bias")
    spec.refuse_unless(spec.get("auto_pad", "NOTSET") in ("NOTSET", "VALID"), "auto_pad")
    spec.refuse_unless(spec.get("output_shape") is None, "output_shape")
    kernel, count, groups = list(weight.shape[2:]), weight.ndim - 2, spec.get("group", 1)
    pads = spec.get("pads", [0] * 2 * count)
    spec.refuse_unless(pads[:count] == pads[count:], "pads")
    more: dict[str, Any] = {
        "output_padding": spec.get("output_padding", [0] * count),
        "groups": groups,
        "bias": bias is not None,
        "device": "meta",
    }
    options = {"stride": spec.get("strides", [1] * count), "padding": pads[:count], "dilation": spec.get("dilations", [1] * count)}
    layer = TRANSPOSED[count](weight.shape[0], weight.shape[1] * groups, kernel, **options, **more)
    return _given(layer, weight=weight, bias=bias)


def linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    """weight [out, in]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    return _given(layer, weight=weight, bias=bias)


def gemm(spec: Spec) -> Built:
    alpha, beta = spec.get("alpha", 1.0), spec.get("beta", 1.0)
    first, second = spec.get("transA", 0), spec.get("transB", 0)
    weight, bias = spec.input(1), spec.input(2)
    constant = isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor)) and not first
    if constant:
        assert isinstance(weight, Tensor)
        rows = (weight if second else weight.T) * alpha
        if bias is None:
            return linear(rows, None)
        assert isinstance(bias, Tensor)
        if bias.numel() == bias.shape[-1:].numel() or bias.numel() == 1:
            return linear(rows, (bias * beta).flatten().expand(rows.shape[0]).contiguous())

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = (a.t() if first else a) @ (b.t() if second else b) * alpha
        return product if c is None else product + beta * c

    return run


def matmul(spec: Spec) -> Built:
    weight = spec.input(1)
    return linear(weight.T, None) if isinstance(weight, Tensor) and weight.ndim == 2 else torch.matmul


def batch_norm(spec: Spec) -> Built:
    spec.refuse_unless(not spec.get("training_mode", 0), "training_mode")
    rank = spec.rank()
    if rank not in NORMS:
        raise UnsupportedError(f"its input has {rank} dims")
    scale, shift, mean, variance = (spec.constant(i, "one of its statistics") for i in range(1, 5))
    layer = NORMS[rank](len(scale), eps=spec.get("epsilon", 1e-5))
    return _given(layer, weight=scale, bias=shift, running_mean=mean, running_var=variance)


def instance_norm(spec: Spec) -> Built:
    scale, shift, eps = spec.constant(1, "its scale"), spec.constant(2, "its bias"), spec.get("epsilon", 1e-5)
    return lambda x, *_: F.instance_norm(x, None, None, scale.to(x.dtype), shift.to(x.dtype), eps=eps)


def layer_norm(spec: Spec) -> Built:
    axis, scale = spec.get("axis", -1), spec.constant(1, "its scale")
    count = -axis if axis < 0 else spec.rank() - axis
    layer = nn.LayerNorm(tuple(scale.shape) if scale.ndim == count else (), eps=spec.get("epsilon", 1e-5))
    spec.refuse_unless(scale.ndim == count and spec.outputs == 1, "axis")
    shift = torch.zeros_like(scale) if spec.input(2) is None else spec.constant(2, "its bias")
    return _given(layer, weight=scale, bias=shift)


def max_pool(spec: Spec) -> Built:
    spec.refuse_unless(spec.outputs == 1, "storage_order")
    kernel = spec.get("kernel_shape")
    stride, padding, dilation, before, pads = _window(spec, kernel)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):  # more than torch takes
        padding, before = [0] * len(kernel), _padding(pads, -math.inf)
    spec.refuse_unless(not (spec.get("ceil_mode", 0) and before is not None), "ceil_mode")
    layer = MAX_POOLS[len(kernel)](kernel, stride, padding, dilation, ceil_mode=bool(spec.get("ceil_mode", 0)))
    return _behind(before, layer)


def average_pool(spec: Spec) -> Built:
    kernel, include = spec.get("kernel_shape"), bool(spec.get("count_include_pad", 0))
    stride, padding, dilation, before, _ = _window(spec, kernel)
    spec.refuse_unless(all(d == 1 for d in dilation), "dilations")
    ceil = bool(spec.get("ceil_mode", 0))
    spec.refuse_unless(not ceil or (before is None and not any(padding)), "ceil_mode")
    pool = AVERAGE_POOLS[len(kernel)](kernel, stride, padding, ceil, include)
    if before is None or include:
        return _behind(before, pool)
    pad = before
    return lambda x: pool(pad(x)) / pool(pad(torch.ones_like(x)))


def global_pool(spec: Spec) -> Built:
    return GLOBAL_POOLS[spec.op, spec.rank() - 2](1)


def prelu(spec: Spec) -> Built:
    slope = spec.constant(1, "its slope")
    if slope.numel() == 1 or (slope.ndim == spec.rank() - 1 and slope.shape[0] == slope.numel()):
        return _given(nn.PReLU(slope.numel()), weight=slope.flatten())
    return lambda x, slopes: torch.where(x < 0, x * slopes, x)
