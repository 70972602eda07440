"""Quantized convolutions and matrix products: the float layer itself, with its input quantized first and its weights in integers.

A layer is converted in place: its class becomes a subclass of its own class, so hooks, attributes, an instance's own `_conv_forward` and
whatever else refers to the layer stay as they were.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from overq.errors import InputError, OverqError
from overq.methods import Fitted, fitted_from_json, fitted_to_json, method_of
from overq.nn.gptq import arranged
from overq.nn.gptq import integers as gptq_integers
from overq.nn.layers import (
    AS_IT_IS,
    Arrangement,
    FloatLayer,
    as_held,
    channel_dim,
    input_groups,
    outputs_first,
    weight_of,
)
from overq.nn.products import RUNNING
from overq.nn.shared import Shared
from overq.nn.shift import shifts
from overq.nn.spelled import Lanes, lanes_of, spelled
from overq.nn.weights import dequantize_weight
from overq.spec import Format

ARRANGED = ("input_scale", "lane_order", "rotation", "input_shift", "dead_zone")  # the parts of an arrangement, as a layer's buffers
FLOAT32 = ("weight_scale", "input_scale", "input_shift", "dead_zone")  # whatever the model is cast to


@dataclass(frozen=True)
class Parts:
    """What makes a float layer a quantized one.

    integers, scale  the arranged weight: int8 (int16 where a method's levels need it) [O, K, ...] and float32 [O]
    weight_bits      that they were made for
    fitted           the method of the input, with its step
    arrangement      of the input's channels; the integers lie in it
    """

    integers: torch.Tensor
    scale: torch.Tensor
    weight_bits: int
    fitted: Fitted
    arrangement: Arrangement = AS_IT_IS


def parts_of(
    layer: FloatLayer, weight_bits: int, fitted: Fitted, arrangement: Arrangement = AS_IT_IS, gram: torch.Tensor | None = None
) -> Parts:
    """The parts of a float layer whose weight is a plain parameter. gram: XᵀX of its inputs (`nn.grams`), for weights rounded by GPTQ."""
    weight = arrangement.weight(weight_of(layer))
    if gram is None:
        integers, scale = fitted.method.integer_weights(weight, weight_bits)
    else:
        integers, scale = gptq_integers(weight, weight_bits, arranged(gram, arrangement, weight.shape[1]))
    return Parts(integers, scale, weight_bits, fitted, arrangement)


class Quantized(nn.Module):
    """What quantized layers share; mixed in before the float layer's class.

    fitted                method of the input, after scale and order, with its step
    step, format          the method's; None where it has none
    lanes                 what a kernel is called with: format and step, also of a dynamic step; None of a method without a format
    weight                dequantized, in the model's dtype: what the layer computes with; not in the state_dict, and not to be assigned
    weight_integers       int8 or int16 [O, K, ...], weight_scale float32 [O]: what `save` stores and hardware loads
    lane_order            int64 [K] or None: lane i of each group carries the group's channel lane_order[i]; the weights lie in this order
    input_scale           float32 [K] or None: each group's channels are divided by it; the weights are multiplied by it
    shared                with the other layers that read the same tensor, which is quantized once for all; None where there are none
    rotation              int64 [] or None: seed of the rotation of each group's channels and of the weights (`nn.rotation`)
    input_shift           float32 [K] or None: vectors nearer to it than to zero are quantized without it (`nn.shift`)
    dead_zone             float32 [2] or None: which small values are made zeros first (`nn.dead_zone`)

    Scales stay float32 whatever the model is cast to. The state_dict holds method and step beside the tensors (as bytes of JSON); loading
    one of another method, width or arrangement is refused with the layer's name.
    """

    fitted: Fitted
    step: Any
    format: Any
    lanes: Lanes | None
    weight_bits: int
    weight: torch.Tensor
    weight_integers: torch.Tensor
    weight_scale: torch.Tensor
    lane_order: torch.Tensor | None
    input_scale: torch.Tensor | None
    rotation: torch.Tensor | None
    input_shift: torch.Tensor | None
    dead_zone: torch.Tensor | None
    channel_dim: int
    float_class: type[nn.Module]
    shared: Shared | None = None

    def arranged(self, x: torch.Tensor) -> torch.Tensor:
        """The input scaled, rotated and in lane order: what its quantized form stands for. Same shape and dtype."""
        arrangement = self.arrangement
        if not arrangement.moves:
            return x
        if x.is_nested:
            return _each(x, self.arranged)
        return arrangement.inputs(x.unflatten(self.channel_dim, (input_groups(self), -1)), self.channel_dim).reshape(x.shape)

    def laid(self, x: torch.Tensor) -> torch.Tensor:
        """What its lanes get of the input: arranged, without what is shifted away and without small values."""
        return self._cleared(self.arranged(x if self.input_shift is None else x - shifts(x, self.input_shift, self.channel_dim)))

    def _cleared(self, x: torch.Tensor) -> torch.Tensor:
        if self.dead_zone is None:
            return x
        grouped = x.unflatten(self.channel_dim, (input_groups(self), -1))
        return self.arrangement.cleared(grouped, self.channel_dim).reshape(x.shape)

    @property
    def arrangement(self) -> Arrangement:
        """Of the input's channels; its tensors lie where the layer does."""
        return Arrangement(self.input_scale, self.lane_order, self.rotation, self.input_shift, self.dead_zone)

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor:
        """The input as the lanes spell it, scaled and in lane order: same shape and dtype. Other layers may read it, too."""
        if self.shared is None:
            return self._overwritten(x)
        return self.shared.quantized(x, self.fitted, self.arrangement.parts, self._overwritten)

    def _overwritten(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_nested:
            return _each(x, self._overwritten)
        if self.input_shift is None:
            return spelled(self._cleared(self.arranged(x)), self.fitted, self.lanes, self.channel_dim, input_groups(self))
        return self.arrangement.around(lambda y: spelled(y, self.fitted, self.lanes, self.channel_dim), x, self.channel_dim)

    def forward(self, input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # the float layers' keyword
        outer, RUNNING.calls = RUNNING.calls, None  # what multiplies in here is none of the products of the module around
        try:
            return super().forward(self.quantize_input(input), *args, **kwargs)
        finally:
            RUNNING.calls = outer

    def use(self, fitted: Fitted) -> None:
        """Take another method or step for the input."""
        self.fitted, self.step, self.format, self.lanes = fitted, fitted.step, fitted.format, lanes_of(fitted)

    def extra_repr(self) -> str:
        if self.format is None:
            return f"{super().extra_repr()}, {self.fitted.describe()}"
        signed = "signed" if self.format.signed else "unsigned"
        return f"{super().extra_repr()}, A{self.format.bits} {signed} cascade={self.format.cascade} step={self.step:.4g}"

    def unchanged(self) -> bool:
        """Whether the weight still is what the integers spell: nobody wrote into it."""
        wanted = as_held(self, dequantize_weight(self.weight_integers, self.weight_scale, self.weight.dtype))
        return self.weight.is_meta or torch.equal(self.weight, wanted)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and isinstance(value, nn.Parameter) and "weight" in self._parameters:
            self._accept(value)  # a framework ties weights again: ours are made from these, and stay
        else:
            super().__setattr__(name, value)

    def _accept(self, weight: torch.Tensor) -> None:
        """Refuse a float weight other than the one that the integers were made from."""
        if weight is self._parameters["weight"]:
            return
        if weight.shape == self._parameters["weight"].shape:  # type: ignore[union-attr]
            arranged = self.arrangement.cpu().weight(outputs_first(self, weight.detach().float()))
            integers, _ = self.fitted.method.integer_weights(arranged, self.weight_bits)
            distance = (integers.to(torch.int32) - self.weight_integers.to(integers.device, torch.int32)).abs()
            if int(distance.max()) <= 1 and float(distance.float().mean()) <= 0.02:  # a cast in between may have moved a few
                return
        raise InputError(f"the weight of a {type(self).__name__} cannot be replaced by another one: quantize the float model anew")

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As for any module, but scales keep float32 and integers their type, and a weight of another dtype is made from them again."""
        before, held = self.weight.dtype, self._buffers.items()
        kept = {name: value for name, value in held if value is not None and (name in FLOAT32 or not value.is_floating_point())}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            now = self._buffers.get(name)
            if now is not None and now.dtype != value.dtype:
                self._buffers[name] = value.to(now.device)
        if self.weight.dtype != before:
            self._dequantize()
        return self

    def _dequantize(self) -> None:
        weight = self._parameters["weight"]
        assert weight is not None
        weight.data = as_held(self, dequantize_weight(self.weight_integers, self.weight_scale, weight.dtype))

    # State -------------------------------------------------------------------------------------------

    def description(self) -> dict[str, Any]:
        """What two layers must have in common, but for the step, to exchange states."""
        arranged = [name for name in ARRANGED if getattr(self, name) is not None]
        return {"input": fitted_to_json(self.fitted), "weight_bits": self.weight_bits, "arranged": arranged, "bias": self.bias is not None}

    def get_extra_state(self) -> torch.Tensor:
        """Method, step and what else is no tensor: uint8, bytes of JSON."""
        return torch.frombuffer(bytearray(json.dumps(self.description(), sort_keys=True).encode()), dtype=torch.uint8).clone()

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.use(_stated(state, type(self).__name__)[0])

    def check_state(self, state: Any, prefix: str) -> None:
        """InputError where the state_dict holds this layer, but of another method, width or arrangement; or of a float layer."""
        name = prefix.rstrip(".")
        mine = [key for key in state if key.startswith(prefix) and "." not in key[len(prefix) :]]
        if not mine:
            return
        if prefix + "_extra_state" not in state:
            raise InputError(f"layer {name!r}: the state_dict is not of a quantized layer; it has {', '.join(mine)}")
        fitted, theirs = _stated(state[prefix + "_extra_state"], f"layer {name!r}")
        ours = self.description()
        same = (fitted.method, fitted.signed) == (self.fitted.method, self.fitted.signed)
        if not same or {**theirs, "input": 0} != {**ours, "input": 0}:
            raise InputError(
                f"layer {name!r}: the state_dict holds {_spelled(fitted, theirs)}, this model {_spelled(self.fitted, ours)}; "
                "quantize it by the same recipe first"
            )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(prefix + "weight", None)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self.check_state(state_dict, prefix)
        every, weight = self._parameters, self._parameters["weight"]
        self._parameters = {name: value for name, value in every.items() if name != "weight"}
        try:
            super()._load_from_state_dict(state_dict, prefix, *rest)
        finally:
            self._parameters = {name: weight if name == "weight" else self._parameters[name] for name in every}
        for name in FLOAT32:
            if (value := self._buffers.get(name)) is not None:
                self._buffers[name] = value.float()
        self._dequantize()

    def __reduce_ex__(self, protocol: Any) -> Any:
        made: Any = super().__reduce_ex__(max(2, int(protocol)))
        _, _, *state = made
        return (_blank, (self.float_class,), *state)


def _stated(state: Any, whose: str) -> tuple[Fitted, dict[str, Any]]:
    try:
        found = json.loads(bytes(state.to(device="cpu", dtype=torch.uint8).tolist()))
        return fitted_from_json(found["input"]), found
    except (AttributeError, KeyError, TypeError, ValueError, OverqError) as error:
        raise InputError(f"{whose}: its extra state is not one of a quantized layer: {error}") from error


def _spelled(fitted: Fitted, facts: dict[str, Any]) -> str:
    kind = "signed" if fitted.signed else "unsigned"
    extras = [*facts["arranged"], *([] if facts["bias"] else ["no bias"])]
    return ", ".join([fitted.method.describe(), kind, f"W{facts['weight_bits']}", *extras])


def _each(x: torch.Tensor, function: Any) -> torch.Tensor:
    """The function on the values of a nested tensor, with the same shapes."""
    if x.layout == torch.jagged:
        return torch.nested.nested_tensor_from_jagged(function(x.values()), offsets=x.offsets())  # type: ignore[attr-defined]
    return torch.nested.as_nested_tensor([function(part) for part in x.unbind()])


class QuantizedConv1d(Quantized, nn.Conv1d):
    """Input [N, C, L] or [C, L], lanes along C."""

    float_class = nn.Conv1d


class QuantizedConv2d(Quantized, nn.Conv2d):
    """Input [N, C, H, W] or [C, H, W], lanes along C."""

    float_class = nn.Conv2d


class QuantizedConv3d(Quantized, nn.Conv3d):
    """Input [N, C, D, H, W] or [C, D, H, W], lanes along C."""

    float_class = nn.Conv3d


class QuantizedLinear(Quantized, nn.Linear):
    """Input [..., K], lanes along K."""

    float_class = nn.Linear


_CLASSES: dict[Any, Any] = {
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
    nn.Linear: QuantizedLinear,
}


@cache
def quantized_class(cls: Any) -> Any:
    """The quantized subclass of a float layer's class; one for each class."""
    made = _CLASSES.get(cls)
    names = {"__module__": cls.__module__, "__doc__": cls.__doc__, "float_class": cls}
    return made or type(cls)(f"Quantized{cls.__name__}", (Quantized, cls), names)


def _blank(cls: Any) -> Quantized:
    """How pickle and deepcopy begin a copy."""
    made = quantized_class(cls)
    return made.__new__(made)


def convert_layer(layer: FloatLayer, parts: Parts) -> Quantized:
    """Make the float layer itself a quantized one, in place; its weight must be a plain parameter."""
    layer.channel_dim = channel_dim(layer)  # type: ignore[assignment]
    device, dtype, bias = layer.weight.device, layer.weight.dtype, layer.bias
    weight = nn.Parameter(as_held(layer, dequantize_weight(parts.integers, parts.scale, dtype)).to(device), requires_grad=False)
    layer._parameters["weight"] = weight  # the old one may be another module's, too
    if bias is not None:
        layer._parameters["bias"] = nn.Parameter(bias.detach().clone(), requires_grad=False)
    layer.register_buffer("weight_integers", parts.integers.to(device))
    layer.register_buffer("weight_scale", parts.scale.to(device))
    for name, values in zip(ARRANGED, parts.arrangement.parts, strict=True):
        layer.register_buffer(name, None if values is None else values.to(device))
    cls: Any = type(layer)
    layer.__class__ = quantized_class(cls)
    assert isinstance(layer, Quantized)
    layer.weight_bits = parts.weight_bits
    layer.use(parts.fitted)
    return layer


def quantize_layer(module: FloatLayer, weight_bits: int, step: float, fmt: Format, arrangement: Arrangement = AS_IT_IS) -> Quantized:
    """The quantized counterpart of one float layer, which is left as it was."""
    return convert_layer(copy.deepcopy(module), parts_of(module, weight_bits, Fitted(method_of(fmt), fmt.signed, step), arrangement))


@contextmanager
def converted(layer: FloatLayer, parts: Parts) -> Iterator[None]:
    """Within the block the layer is quantized; then it is itself again."""
    cls, before = type(layer), {**vars(layer), "_parameters": dict(layer._parameters), "_buffers": dict(layer._buffers)}
    before["_non_persistent_buffers_set"] = set(layer._non_persistent_buffers_set)
    try:
        convert_layer(layer, parts)
        yield
    finally:
        layer.__class__ = cls
        vars(layer).clear()
        vars(layer).update(before)


def give_bias(layer: nn.Module) -> None:
    """Zeros for the bias that a layer lacks; nothing where it has one."""
    if layer.bias is None:
        weight = weight_of(layer)
        layer.bias = nn.Parameter(weight.new_zeros(weight.shape[0]), requires_grad=False)
