"""A quantized layer in ONNX: its weights in integers, its input through `overq::overwrite` or QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from overq.errors import InputError
from overq.exchange.overwriting import DOMAIN, Tiles, exact_type, lane_counts, overwrite_function, rows, tiles_of
from overq.exchange.reading import library
from overq.kernels.scale import factors
from overq.nn.layers import CHANNEL_DIM, TRANSPOSED, input_groups, kind
from overq.nn.quantized import Quantized
from overq.spec import Format

FORMS = ("exact", "qdq", "integer")
NIBBLE = 4
OPSET, INT4_OPSET = 13, 21


class LayersOut:
    """What the layers of one network need: nodes in order, initializers, functions, each made once.

    form   exact: every input through `overq::overwrite`, weights as Cast(int8) · scale, which a runtime folds when it loads the file
           qdq: plain formats through QuantizeLinear and DequantizeLinear, weights through DequantizeLinear, those of at most 4 bits as INT4
    """

    def __init__(self, form: str = "exact", opset: int = OPSET) -> None:
        self.ir = library("onnx_ir")
        self.form, self.opset = form, opset
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.functions: dict[tuple[Format, Tiles | None, Any], Any] = {}
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

    def input(self, x: Any, name: str, layer: Quantized) -> Any:
        """x as the layer's lanes spell it, scaled and in lane order."""
        if layer.format is None:
            raise InputError(f"layer {name!r}: {layer.fitted.describe()} has no ONNX form; formats of OverQ and plain ones have")
        if layer.rotation is not None:
            raise InputError(f"layer {name!r}: a rotation of the input at run time has no ONNX form yet")
        if kind(layer) not in CHANNEL_DIM:
            raise InputError(f"layer {name!r}: {type(layer).__name__} has no ONNX form here")
        if layer.weight.dtype != torch.float32:
            raise InputError(f"layer {name!r} computes in {str(layer.weight.dtype).removeprefix('torch.')}: ONNX is written for float32")
        if not isinstance(layer.step, float):
            raise InputError(f"layer {name!r}: a step for each vector has no ONNX form yet")
        parts = [None if part is None else tuple(part.flatten().tolist()) for part in (layer.lane_order, layer.input_scale)]
        key = (id(x), layer.format, layer.step, input_groups(layer), isinstance(layer, nn.Linear), *parts)
        if key not in self.made:
            self.made[key] = self._quantized(self._arranged(x, name, layer), name, layer)
        return self.made[key]

    def _arranged(self, x: Any, name: str, layer: Quantized) -> Any:
        groups, linear = input_groups(layer), isinstance(layer, nn.Linear)
        if layer.input_scale is not None:
            scale = layer.input_scale.float().repeat(groups)
            shape = () if linear else (1,) * (layer.weight.ndim - 2)
            x = self.op("Div", x, self.constant(f"{name}.input_scale", scale.reshape(-1, *shape)))
        if layer.lane_order is not None:
            order = layer.lane_order
            places = torch.cat([order + g * len(order) for g in range(groups)])
            x = self.op("Gather", x, self.constant(f"{name}.lane_order", places), axis=-1 if linear else 1)
        return x

    def _quantized(self, x: Any, name: str, layer: Quantized) -> Any:
        fmt, linear = layer.format, isinstance(layer, nn.Linear)
        if self.form == "qdq" and not fmt.cascade:
            return self._plain(x, name, fmt, layer.step)
        rate, back = factors(layer.step, fmt)
        more = [self.shared(f"{name}.{what}", np.float32(value)) for what, value in (("rate", rate), ("back", back))]
        short, exact = None, np.float32
        if fmt.cascade:
            channels: Any = layer.in_features if linear else layer.in_channels
            tiles = tiles_of(fmt, channels, input_groups(layer))
            short, exact = tiles if tiles.short else None, exact_type(fmt, tiles.lanes)
            more += [self.shared("rows", np.array(rows(tiles, linear))), self.shared("count", lane_counts(tiles))]
        key = (fmt, short, exact)
        if key not in self.functions:
            called = f"overwrite_{len(self.functions) + 1}" if self.functions else "overwrite"
            self.functions[key] = overwrite_function(called, *key)
        return self.op(self.functions[key].name, x, *more, domain=DOMAIN)

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
