"""Cycles, utilization and traffic of a quantized network's layers on the array, from the data's real zeros."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from overq.errors import FormatError, OverqError
from overq.integer import IntegerLayer, integer_layer
from overq.nn import LayerRule, Quantized, Recipe, summary
from overq.sim import ArrayLayer, fast, layer_traffic, total_cycles
from overq.spec import ArrayConfig, Format, State


@dataclass(frozen=True)
class LayerCycles:
    """One layer on the array; sums over all images.

    bits, state_bits  of a lane; weight_bits; sum_bits: of the accumulator
    depth, outputs, vectors   lanes of a dot product, output channels, output positions
    folds, cycles     tiles of weights, and cycles from the first weight loaded to the last sum out
    plain_cycles      of the same layer on the plain array
    macs              multiplications of the layer; utilization: macs / (cycles · elements)
    nonzero           share of the multiplications whose digit is not 0
    second, moved     share of the input's lanes with a second digit (RANGE or PRECISION), and MOVED
    further fields    bits moved, see sim.Traffic
    """

    name: str
    bits: int
    state_bits: float
    weight_bits: int
    sum_bits: int
    depth: int
    outputs: int
    vectors: int
    folds: int
    cycles: int
    plain_cycles: int
    macs: int
    utilization: float
    nonzero: float
    second: float
    moved: float
    array_digits: int
    array_states: int
    array_weights: int
    array_sums: int
    memory_weights: int
    memory_digits: int
    memory_states: int
    memory_unencoded: int


@dataclass(frozen=True)
class NetworkCycles:
    """What was run on what, and the layers in the order they ran."""

    model: str
    data: str
    images: int
    rows: int
    columns: int
    double_buffered: bool
    layers: tuple[LayerCycles, ...]

    def total(self, name: str) -> int:
        """Sum of an integer field over the layers."""
        return sum(getattr(layer, name) for layer in self.layers)

    @property
    def utilization(self) -> float:
        return self.total("macs") / (self.total("cycles") * self.rows * self.columns)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"utilization": self.utilization}


def recipe(fmt: Format, rows: int, weight_bits: int = 8, calibration: str = "format-mse") -> Recipe:
    """OverQ in tiles of `rows` lanes; first layer and classifier keep 8 plain bits."""
    edge = LayerRule(Format.plain(8), weight_bits, "max")
    return Recipe(fmt.with_(lanes=rows), weight_bits, calibration, first=edge, last=edge)


def array_layer(layer: IntegerLayer, t: Tensor) -> ArrayLayer:
    """The layer and its input as the array meets them. t: integers [N, C, H, W] or [N, K]."""
    if layer.padding_mode != "zeros" or layer.after != layer.padding:
        raise FormatError(f"layer {layer.name!r}: the array pads with zeros, alike on both sides, not {layer.padding_mode}")
    digits, states = (values.numpy() for values in layer.lanes(t))
    weights = layer.weights.permute(2, 3, 1, 0).numpy()
    return ArrayLayer(digits, states, weights, layer.stride, layer.padding, layer.dilation)


def network_cycles(
    model: nn.Module,
    x: Tensor,
    *,
    rows: int,
    columns: int,
    double_buffered: bool = False,
    segments: bool = True,
    check: bool = False,
    names: tuple[str, str] = ("", ""),
    watch: Callable[[IntegerLayer, Tensor, ArrayLayer], None] = lambda layer, x, work: None,
    progress: Callable[[str], None] = lambda layer: None,
) -> NetworkCycles:
    """Run images through a quantized model and every layer's input through the cycle model.

    model   of overq.quantize, with `lanes` = rows where a channel vector is longer than the array (see `recipe`)
    x       images as the model takes them
    segments   whole channel vectors of several kernel taps share a tile (plain formats: any lanes), see sim.ArrayLayer
    check   also compare the array's sums with the integer layer's, all of them; a difference raises OverqError
    names   (model, data), for the record
    watch   is given each layer, its real input and what the array makes of it
    """
    bits = {report.name: report.weight_bits for report in summary(model).layers}
    rows_seen: list[LayerCycles] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def met(module: nn.Module, args: tuple[Any, ...]) -> None:
            assert isinstance(module, Quantized)  # hooks are put on these alone
            layer = integer_layer(name, module, bits[name])
            seen = args[0].detach().cpu()
            seen = seen.reshape(-1, seen.shape[-1]) if layer.linear else seen
            t = layer.fixed(seen)
            fmt = layer.format.with_(lanes=None)
            machine = ArrayConfig(fmt, layer.weight_bits, rows, columns, double_buffered=double_buffered, segments=segments)
            work = array_layer(layer, t)
            rows_seen.append(layer_cycles(layer, t, work, machine, check=check))
            watch(layer, seen, work)
            progress(name)

        return met

    hooks = [m.register_forward_pre_hook(hook(name)) for name, m in model.named_modules() if isinstance(m, Quantized)]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in hooks:
            handle.remove()
    return NetworkCycles(*names, len(x), rows, columns, double_buffered, tuple(rows_seen))


def layer_cycles(layer: IntegerLayer, t: Tensor, work: ArrayLayer, machine: ArrayConfig, *, check: bool = False) -> LayerCycles:
    """One layer, given its integer input and that as the array meets it."""
    channels = layer.weights.shape[1]
    if layer.format.cascade and channels > machine.rows and layer.format.lanes != machine.rows:
        raise OverqError(
            f"layer {layer.name!r} was quantized in tiles of {layer.format.lanes or channels} lanes, but the array has {machine.rows} rows"
        )
    ran = fast.run(work, machine)
    if check:
        total = layer.accumulate(t)
        expected = total if layer.linear else total.movedim(1, -1).reshape(-1, total.shape[1])
        if not np.array_equal(ran.sums, expected.numpy()):
            raise OverqError(f"layer {layer.name!r}: the array's sums differ from the integer layer's")
    plain = machine.with_(format=Format.plain(layer.format.bits))
    folds = ran.folds // len(work.tiles(machine)) * len(work.tiles(plain))
    second = np.count_nonzero((work.states == State.RANGE) | (work.states == State.PRECISION))
    return LayerCycles(
        name=layer.name,
        bits=layer.format.bits,
        state_bits=layer.format.state_bits,
        weight_bits=layer.weight_bits,
        sum_bits=machine.depth_bits(work.depth),
        depth=work.depth,
        outputs=work.weights.shape[3],
        vectors=work.vectors,
        folds=ran.folds,
        cycles=ran.cycles,
        plain_cycles=total_cycles(plain, work.vectors, folds),
        macs=ran.busy,
        utilization=ran.busy / (ran.cycles * machine.rows * machine.columns),
        nonzero=ran.multiplied / ran.busy,
        second=second / work.states.size,
        moved=np.count_nonzero(work.states == State.MOVED) / work.states.size,
        **asdict(layer_traffic(work, machine)),
    )
