"""Quantized Conv1d, Conv2d and Linear: the framework's own layer behind an overwritten input and quantized weights."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import nn

from overq.nn.op import overwrite
from overq.nn.weights import dequantize_weight, quantize_weight
from overq.spec import Format

FloatLayer = nn.Conv1d | nn.Conv2d | nn.Linear
CHANNEL_DIM: dict[type[nn.Module], int] = {nn.Conv1d: -2, nn.Conv2d: -3, nn.Linear: -1}  # counted from the end: unbatched inputs work too


def can_quantize(module: nn.Module) -> TypeGuard[FloatLayer]:
    """Whether it is a Conv1d, Conv2d or Linear that runs that class's own forward."""
    return any(isinstance(module, base) and type(module).forward is base.forward for base in (nn.Conv1d, nn.Conv2d, nn.Linear))


def kind(layer: FloatLayer) -> type[nn.Module]:
    """Conv1d, Conv2d or Linear."""
    return next(base for base in CHANNEL_DIM if isinstance(layer, base))


def input_groups(module: nn.Module) -> int:
    """Into how many separate channel groups the layer cuts its input."""
    return getattr(module, "groups", 1)


def input_lanes(module: nn.Module) -> int:
    """Channels of one group: lanes never cross a group."""
    return getattr(module, "in_features", 0) or getattr(module, "in_channels", 0) // input_groups(module)


def fitted_format(fmt: Format, module: nn.Module) -> Format:
    """`fmt` as far as this layer can use it: a single-channel group has no neighbour, so it falls back to plain."""
    if input_lanes(module) == 1 and fmt.cascade:
        return Format.plain(fmt.bits, fmt.signed)
    return fmt


def by_group(x: torch.Tensor, fmt: Format, dim: int, groups: int) -> tuple[torch.Tensor, Format, int]:
    """(x, format, dim) such that lanes cross no border between `groups` equal channel groups; x perhaps as a view with one more dim."""
    if groups == 1 or not fmt.cascade:
        return x, fmt, dim
    lanes = x.shape[dim] // groups
    if fmt.lanes is None or fmt.lanes >= lanes:
        return x, fmt.with_(lanes=lanes), dim  # a tile is a group
    if lanes % fmt.lanes == 0:
        return x, fmt, dim
    return x.unflatten(dim, (groups, lanes)), fmt, dim


class Quantized(nn.Module):
    """What the three layers share; mixed in before the framework's class.

    step, format          of the input
    weight                dequantized, in the model's dtype: what the layer computes with
    weight_integers       int8, weight_scale float32 [O]: what `save` stores and hardware loads
    """

    step: float
    format: Format
    weight_integers: torch.Tensor
    weight_scale: torch.Tensor
    channel_dim: int

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor:
        """The input as the lanes spell it: same shape and dtype."""
        grouped, fmt, dim = by_group(x, self.format, self.channel_dim, input_groups(self))
        return overwrite(grouped, self.step, fmt, dim).reshape(x.shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.quantize_input(x))

    def extra_repr(self) -> str:
        signed = "signed" if self.format.signed else "unsigned"
        return f"{super().extra_repr()}, A{self.format.bits} {signed} cascade={self.format.cascade} step={self.step:.4g}"


class QuantizedConv1d(Quantized, nn.Conv1d):
    """Input [N, C, L] or [C, L], lanes along C."""


class QuantizedConv2d(Quantized, nn.Conv2d):
    """Input [N, C, H, W] or [C, H, W], lanes along C."""


class QuantizedLinear(Quantized, nn.Linear):
    """Input [..., K], lanes along K."""


_CLASSES: dict[type[nn.Module], Any] = {nn.Conv1d: QuantizedConv1d, nn.Conv2d: QuantizedConv2d, nn.Linear: QuantizedLinear}


def quantized_layer(module: FloatLayer, integers: torch.Tensor, scale: torch.Tensor, step: float, fmt: Format) -> Quantized:
    """A quantized layer of the same shape, device and dtype as the float `module`, holding the given integer weights."""
    base, bias = kind(module), module.bias
    arguments: dict[str, Any] = {"bias": bias is not None, "device": "meta", "dtype": module.weight.dtype}
    if isinstance(module, nn.Linear):
        layer = _CLASSES[base](module.in_features, module.out_features, **arguments)
    else:
        same = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        layer = _CLASSES[base](**{name: getattr(module, name) for name in same}, **arguments)
    device = module.weight.device
    layer.weight = nn.Parameter(dequantize_weight(integers, scale, module.weight.dtype).to(device), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    layer.register_buffer("weight_integers", integers.to(device))
    layer.register_buffer("weight_scale", scale.to(device))
    layer.step, layer.format, layer.channel_dim = step, fmt, CHANNEL_DIM[base]
    return layer.train(module.training)


def quantize_layer(module: FloatLayer, weight_bits: int, step: float, fmt: Format) -> Quantized:
    """The quantized counterpart of a float layer."""
    integers, scale = quantize_weight(module.weight, weight_bits)
    return quantized_layer(module, integers, scale, step, fmt)
