"""A quantized layer in ONNX: its weights in integers, its input through `overq::overwrite` or QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from overq.errors import InputError
from overq.exchange.exact import Pieces, cut_function, pieces, rotate_function, settle_function
from overq.exchange.overwriting import DOMAIN, OPSET, exact_type, lane_counts, overwrite_function, rows, tiles_of
from overq.exchange.reading import library
from overq.exchange.vector_steps import overwrite_each_function
from overq.kernels.scale import Dynamic, factors
from overq.nn.layers import CHANNEL_DIM, TRANSPOSED, as_held, input_groups, input_lanes, kind
from overq.nn.quantized import Quantized
from overq.spec import Format

FORMS = ("exact", "qdq", "integer")
NIBBLE = 4
INT4_OPSET = 21


Multiply = Callable[[Any, Any, Any], Any]  # of input, weight, and bias or None: one convolution or matrix product


@dataclass(frozen=True)
class Affine:
    """y · factor + offset, float64 [O] or numbers for all outputs."""

    factor: Any = 1.0
    offset: Any = 0.0


def exact_sums(layer: Quantized) -> bool:
    """Whether the layer's sums are of integers: all but those of a convolution whose vectors have steps of their own."""
    return layer.format is not None or isinstance(layer, nn.Linear)


class LayersOut:
    """What the layers of one network need: nodes in order, initializers, functions, each made once.

    form   exact: every input through `overq::overwrite` as integers, integer weights, exact sums, then float64 (`overq::settle`)
           qdq: plain formats through QuantizeLinear and DequantizeLinear, weights through DequantizeLinear, those of at most 4 bits as INT4
    """

    def __init__(self, form: str = "exact", opset: int = OPSET) -> None:
        self.ir = library("onnx_ir")
        self.form, self.opset = form, opset
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.functions: dict[tuple[Any, ...], Any] = {}
        self.values: dict[tuple[Any, ...], Any] = {}
        self.made: dict[tuple[Any, ...], Any] = {}  # inputs that several layers read alike are quantized once
        self.notes: list[str] = []

    def op(self, op: str, *inputs: Any, domain: str = "", outputs: int | None = None, **attributes: Any) -> Any:
        """The output of one node, or its `outputs`."""
        node = self.ir.node(op, list(inputs), attributes or None, domain=domain, num_outputs=outputs or 1)
        self.nodes.append(node)
        return node.outputs[0] if outputs is None else list(node.outputs)

    def constant(self, name: str, array: np.ndarray | np.floating | Tensor) -> Any:
        """An initializer; a name that is taken gets a number."""
        base, count = name, 1
        while name in self.initializers:
            name, count = f"{base}_{count}", count + 1
        values = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
        tensor = self.ir.tensor(values.copy(order="C"), name=name)
        value = self.ir.Value(name=name, const_value=tensor, type=self.ir.TensorType(tensor.dtype), shape=tensor.shape)
        self.initializers[name] = value
        return value

    def shared(self, name: str, array: np.ndarray | np.floating) -> Any:
        """An initializer that all who need these values read."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.values:
            self.values[key] = self.constant(name, array)
        return self.values[key]

    def ints(self, name: str, values: Sequence[int]) -> Any:
        return self.shared(name, np.array(values, np.int64))

    # What a layer computes with --------------------------------------------------------------------------

    def product(
        self, x: Any, name: str, layer: Quantized, multiply: Multiply, *, transposed: bool = False, affine: Affine | None = None
    ) -> Any:
        """The layer's output. multiply: one product of an input and a weight; transposed: the weight is [in, out].

        affine: of a batch norm behind the layer, which is then part of it; form `exact` only.
        """
        self._refuse(name, layer)
        if self.form != "exact":
            return multiply(self._once(x, name, layer), self.weight(name, layer, transposed), self.bias(name, layer))
        whole = self._once(x, name, layer)
        each = whole[1] if isinstance(whole, list) else None
        integers = as_held(layer, layer.weight_integers.detach().cpu())
        assert layer.lanes is not None  # `_refuse` saw to that
        cut = pieces(layer.lanes[0], layer.weight_integers.detach().cpu().numpy(), name) if exact_sums(layer) else Pieces()
        weight = self._integers(name, integers.T.contiguous() if transposed else integers)
        sums = [multiply(part, weight, None) for part in self._cut(whole[0] if isinstance(whole, list) else whole, cut)]
        return self._settled(sums, name, layer, cut, each, affine or Affine(), transposed)

    def _refuse(self, name: str, layer: Quantized) -> None:
        if layer.lanes is None:
            raise InputError(
                f"layer {name!r}: {layer.fitted.describe()} has no ONNX form; formats of OverQ and plain ones have, "
                "with one step or with one a vector"
            )
        if layer.input_shift is not None:
            raise InputError(f"layer {name!r}: an input that is shifted vector by vector has no ONNX form")
        if layer.dead_zone is not None:
            raise InputError(f"layer {name!r}: a dead zone has no ONNX form")
        if self.form != "exact" and layer.rotation is not None:
            raise InputError(f"layer {name!r}: a rotation of the input at run time has no ONNX form but exact")
        if self.form != "exact" and layer.format is None:
            raise InputError(f"layer {name!r}: a step for each vector has no ONNX form but exact")
        if kind(layer) not in CHANNEL_DIM:
            raise InputError(f"layer {name!r}: {type(layer).__name__} has no ONNX form here")
        if layer.weight.dtype != torch.float32:
            raise InputError(f"layer {name!r} computes in {str(layer.weight.dtype).removeprefix('torch.')}: ONNX is written for float32")

    def _once(self, x: Any, name: str, layer: Quantized) -> Any:
        """x as the layer's lanes spell it, scaled and in lane order; what several layers read alike is made once."""
        assert layer.lanes is not None  # `_refuse` saw to that
        arrangement = (layer.lane_order, layer.input_scale, layer.rotation)
        parts = [None if part is None else tuple(part.flatten().tolist()) for part in arrangement]
        key = (id(x), *layer.lanes, input_groups(layer), isinstance(layer, nn.Linear), *parts)
        if key not in self.made:
            self.made[key] = self._quantized(self._arranged(x, name, layer), name, layer)
        return self.made[key]

    def _arranged(self, x: Any, name: str, layer: Quantized) -> Any:
        groups, linear = input_groups(layer), isinstance(layer, nn.Linear)
        if layer.input_scale is not None:
            scale = layer.input_scale.float().repeat(groups)
            shape = () if linear else (1,) * (layer.weight.ndim - 2)
            x = self.op("Div", x, self.constant(f"{name}.input_scale", scale.reshape(-1, *shape)))
        if layer.rotation is not None:
            lanes, seed = input_lanes(layer), int(layer.rotation)
            more = [] if linear else [self.shared("rows", np.array([0, groups, lanes, -1]))]
            x = self.call(("rotate", lanes, seed, linear), lambda called: rotate_function(called, lanes, seed, linear), x, *more)
        if layer.lane_order is not None:
            order = layer.lane_order
            places = torch.cat([order + g * len(order) for g in range(groups)])
            x = self.op("Gather", x, self.constant(f"{name}.lane_order", places), axis=-1 if linear else 1)
        return x

    def call(self, key: tuple[Any, ...], make: Callable[[str], Any], *inputs: Any, outputs: int | None = None) -> Any:
        """One node of a function that is made once; functions with the same first word in their key are numbered."""
        if key not in self.functions:
            count = sum(other[0] == key[0] for other in self.functions)
            self.functions[key] = make(f"{key[0]}_{count + 1}" if count else key[0])
        return self.op(self.functions[key].name, *inputs, domain=DOMAIN, outputs=outputs)

    def _quantized(self, x: Any, name: str, layer: Quantized) -> Any:
        assert layer.lanes is not None  # `_refuse` saw to that
        (fmt, step), linear, groups = layer.lanes, isinstance(layer, nn.Linear), input_groups(layer)
        if self.form == "qdq" and not fmt.cascade:
            return self._plain(x, name, fmt, layer.step)
        more, short, exact = [], None, np.float32
        if fmt.cascade:
            tiles = tiles_of(fmt, input_lanes(layer) * groups, groups)
            short, exact = tiles if tiles.short else None, exact_type(fmt, tiles.lanes)
            more = [self.shared("rows", np.array(rows(tiles, linear))), self.shared("count", lane_counts(tiles))]
        if isinstance(step, Dynamic):
            alpha, vectors = self.shared(f"{name}.alpha", np.float32(step.alpha)), (groups, input_lanes(layer))
            key = ("overwrite_each", fmt, short, exact, step.measure, vectors if step.measure == "rms" or groups > 1 else None, linear)
            each = partial(overwrite_each_function, fmt=fmt, short=short, exact=exact, measure=step.measure, vectors=vectors, linear=linear)
            return self.call(key, lambda called: each(called, opset=self.opset), x, alpha, *more, outputs=2 if linear else None)
        rate, back = factors(step, fmt)
        more = [self.shared(f"{name}.rate", rate), *([self.shared(f"{name}.back", back)] if self.form != "exact" else []), *more]
        made = partial(overwrite_function, fmt=fmt, short=short, exact=exact, worth=self.form != "exact")
        return self.call(("overwrite", fmt, short, exact), made, x, *more)

    # Sums ------------------------------------------------------------------------------------------------

    def _integers(self, name: str, integers: Tensor) -> Any:
        """A weight's integers as float32."""
        return self.op("Cast", self.constant(f"{name}.weight_integers", integers), to=self.ir.DataType.FLOAT)

    def _cut(self, whole: Any, cut: Pieces) -> list[Any]:
        if cut.count == 1:
            return [whole]
        key = (id(whole), cut)
        if key not in self.made:
            self.made[key] = self.call(("cut", cut), lambda called: cut_function(called, cut), whole, outputs=cut.count)
        return list(self.made[key])

    def _settled(self, sums: list[Any], name: str, layer: Quantized, cut: Pieces, each: Any, affine: Affine, last: bool) -> Any:
        """Float64 of the sums. last: the outputs lie in the last dim, as of a Linear."""
        scale = layer.weight_scale.detach().cpu().double().numpy()
        factor = scale * (float(factors(layer.step, layer.format)[1]) if layer.format is not None else 1.0) * affine.factor
        bias: Any = layer.bias
        offset = affine.offset + (0.0 if bias is None else affine.factor * bias.detach().cpu().double().numpy())
        shape = (-1,) if isinstance(layer, nn.Linear) or last else (-1, *[1] * (layer.weight.ndim - 2))
        given = [*sums, *([] if each is None else [each]), self.constant(f"{name}.factor", factor.reshape(shape))]
        if there := bool(np.any(offset)):
            given.append(self.constant(f"{name}.offset", (offset * np.ones_like(factor)).reshape(shape)))
        key = ("settle", cut, each is not None, there)
        return self.call(key, lambda called: settle_function(called, *key[1:]), *given)

    def _plain(self, x: Any, name: str, fmt: Format, step: float) -> Any:
        """QuantizeLinear to 8 bits, after a clip where the format has fewer; ties go to even, where the simulation rounds them up."""
        scale = self.shared(f"{name}.step", np.float32(step))
        kind = np.int8 if fmt.signed else np.uint8
        if fmt.bits < 8:
            low, high = np.float32(fmt.digit_min * step), np.float32(fmt.digit_max * step)
            x = self.op("Clip", x, self.shared(f"{name}.low", low), self.shared(f"{name}.high", high))
        zero = self.shared(f"{name}.zero", np.array(0, kind))
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, scale, zero), scale, zero)

    def weight(self, name: str, layer: Quantized, transposed: bool = False) -> Any:
        """The layer's weight as a value: [O, C, ...], or [C, O] where `transposed`. Of a transposed convolution in float, as it is held."""
        if isinstance(layer, TRANSPOSED):
            return self.constant(f"{name}.weight", layer.weight)
        integers, scale = layer.weight_integers.detach().cpu(), layer.weight_scale.detach().cpu().float()
        axis = 0
        if transposed:
            integers, axis = integers.T.contiguous(), 1
        if self.form == "qdq" and integers.dtype == torch.int8:
            if layer.weight_bits <= NIBBLE and self.opset >= INT4_OPSET:
                packed = self.constant(f"{name}.weight_integers", _nibbles(integers))
            else:
                packed = self.constant(f"{name}.weight_integers", integers)
            return self.op("DequantizeLinear", packed, self.constant(f"{name}.weight_scale", scale), axis=axis)
        spread = scale.reshape(-1, *[1] * (integers.ndim - 1)) if axis == 0 else scale
        whole = self.op("Cast", self.constant(f"{name}.weight_integers", integers), to=self.ir.DataType.FLOAT)
        return self.op("Mul", whole, self.constant(f"{name}.weight_scale", spread))

    def bias(self, name: str, layer: nn.Module) -> Any:
        """Its bias as a value, or None."""
        bias: Any = layer.bias
        return None if bias is None else self.constant(f"{name}.bias", bias.detach().cpu().float())


def _nibbles(integers: Tensor) -> np.ndarray:
    import ml_dtypes  # onnx-ir needs it, too

    return integers.numpy().astype(ml_dtypes.int4)
