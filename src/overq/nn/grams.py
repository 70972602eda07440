"""XᵀX of layers' inputs, by which `nn.gptq` weighs the errors of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from overq.errors import CalibrationError, FormatError
from overq.methods import Dynamic, Method
from overq.nn.chosen import Chosen
from overq.nn.layers import CHANNEL_DIM, FloatLayer, kind
from overq.nn.padding import current
from overq.nn.recipe import GPTQ, LayerRule
from overq.nn.replica import ready


def wanting(rules: Mapping[str, LayerRule], layers: Mapping[str, FloatLayer], functions: Mapping[str, Any]) -> list[str]:
    """The layers whose weights GPTQ is to round. FormatError, by name, where it cannot."""
    names = [name for name, rule in rules.items() if rule.weight_rounding == GPTQ]
    for name in names:
        layer, method = layers[name], rules[name].method
        assert isinstance(method, Method)  # a rule turns formats into methods
        if name in functions:
            raise FormatError(f"{name!r}: gptq rounds the weights of layers, and this is a parameter that a function multiplies with")
        conv = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"
        if not (conv or isinstance(layer, nn.Linear) or kind(layer) not in CHANNEL_DIM):
            what = f"{type(layer).__name__} with {getattr(layer, 'groups', 1)} groups"
            raise FormatError(
                f"layer {name!r}: gptq rounds weights of Linear, and of Conv2d with one group and zero padding, not of {what}"
            )
        of = method.of if isinstance(method, Dynamic) else method
        if type(of).integer_weights is not Method.integer_weights:  # another one's levels are not these
            raise FormatError(f"layer {name!r}: {of.describe()} has a rounding of weights of its own; gptq is for the others")
    return names


def grams(model: nn.Module, chosen: Chosen | None, tensors: Mapping[str, str]) -> dict[str, Tensor]:
    """XᵀX, float32 [N, N], of what each layer's outputs are products of, on the kept samples; padding left out. Layers without a sample
    are left out.

    tensors  layer -> the tensor it reads, as in `Observations.tensors`: linear layers that read one share what is made of it, so that
             memory is 4 · N² bytes a tensor. N = channels · kernel taps
    """
    if chosen is None:
        raise CalibrationError("gptq weighs the errors of weights by samples, and these observations were made without any: give some")
    model = ready(model, borrow=True)
    modules, found = dict(model.named_modules()), dict[str, Tensor]()
    key = {name: name if isinstance(modules[name], nn.Conv2d) else f"{tensor} as it is" for name, tensor in tensors.items()}
    watched = {key[name]: name for name in reversed(list(tensors))}  # the first of those that share

    def record(key: str, layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows = rows_of(layer, (args[0] if args else named["input"]).detach().float())
        found[key] = found[key] + rows.T @ rows if key in found else rows.T @ rows

    handles = [modules[name].register_forward_pre_hook(partial(record, k), with_kwargs=True) for k, name in watched.items()]
    try:
        with chosen.running(model) as answer:
            for unit in chosen.units:
                answer(unit)
    finally:
        for handle in handles:
            handle.remove()
    return {name: found[k] for name, k in key.items() if k in found}


def rows_of(layer: nn.Module, x: Tensor) -> Tensor:
    """What each real output position of a layer is a product of: [positions, N], channels outer, kernel taps inner."""
    if isinstance(layer, nn.Conv2d):
        before = layer._reversed_padding_repeated_twice
        cut = F.unfold(F.pad(x if x.ndim == 4 else x[None], before), layer.kernel_size, layer.dilation, 0, layer.stride)
        return cut.transpose(1, 2).flatten(0, 1)
    keep = current()
    real = None if keep is None or x.ndim < 2 else keep.of(x.shape[:-1])
    return x.reshape(-1, x.shape[-1]) if real is None else x[real.to(x.device)]
