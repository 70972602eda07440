"""install: any Method into a model, under the rules that `quantize` follows: same layers, samples, weights, first and last layer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from overq import calib
from overq.calib import Observed
from overq.errors import CalibrationError
from overq.methods import Cost, Fitted, Method
from overq.methods.uniform import Uniform
from overq.nn.layers import CHANNEL_DIM, can_quantize, input_groups, input_lanes, kind
from overq.nn.observation import Observations
from overq.spec import Format

COST_ROWS = 4096  # sampled channel vectors that a data-dependent cost is averaged over


def install(model: nn.Module, seen: Observations, method: Method, weight_bits: int = 8) -> tuple[nn.Module, Cost]:
    """A copy of `model` in eval mode that computes with the method's activations and weights, and the method's average cost.

    The first and the last layer reached keep 8 plain bits (step from the greatest value) and `weight_bits` plain weights; a layer
    with one channel a group has no neighbours and gets plain activations of the method's bits. The cost is the mean over the values
    that enter the layers between, where methods differ; a network without such layers is counted by all of its layers.
    Raises CalibrationError where the samples reached no layer or were another model's.
    """
    result = copy.deepcopy(model).eval()
    layers: dict[str, Any] = {name: m for name, m in result.named_modules() if can_quantize(m)}
    names = list(seen.layers)
    if not names or not set(names) <= layers.keys():
        raise CalibrationError("the observations reached no layer, or are of another model")
    costs: list[tuple[Cost, int]] = []
    edges: list[tuple[Cost, int]] = []
    for name in names:
        layer, observed = layers[name], seen.layers[name]
        edge = name in (names[0], names[-1])
        fitted = _edge(observed) if edge else _suited(method, layer).fit(observed.sample, observed.signed)
        with torch.no_grad():
            layer.weight.copy_(fitted.method.weights(layer.weight.detach(), weight_bits))
        layer.register_forward_pre_hook(_Overwrite(fitted))
        rows = observed.sample[:COST_ROWS]
        (edges if edge else costs).append((fitted.cost(rows, weight_bits=weight_bits), observed.values))
    return result, mean_cost(costs or edges)


class _Overwrite:
    """The hook that replaces a layer's input; lanes never cross a group."""

    def __init__(self, fitted: Fitted) -> None:
        self.fitted = fitted

    def __call__(self, layer: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x, dim, groups = args[0], CHANNEL_DIM[kind(layer)], input_groups(layer)
        if groups == 1:
            return (self.fitted(x, axis=dim), *args[1:])
        grouped = x.unflatten(dim, (groups, -1))
        return (self.fitted(grouped, axis=dim).reshape(x.shape), *args[1:])


def _edge(observed: Observed) -> Fitted:
    step = calib.get("max")(observed, Format.plain(8, observed.signed))
    return Uniform(8).fit(observed.sample, observed.signed, step=step)


def _suited(method: Method, layer: nn.Module) -> Method:
    return Uniform(min(method.bits, 8)) if input_lanes(layer) == 1 else method  # type: ignore[attr-defined]  # every method has bits


def mean_cost(costs: list[tuple[Cost, int]]) -> Cost:
    """The mean over values, from (cost of one, how many) of each layer."""
    total = sum(values for _, values in costs)

    def mean(field: str) -> float:
        return sum(getattr(cost, field) * values for cost, values in costs) / total

    width = costs[0][0].weight_bits
    return Cost(mean("payload_bits"), mean("metadata_bits"), mean("activation_bits"), width, mean("extra_lanes"))
