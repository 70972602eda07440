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
from overq.nn.bias import Outputs, correct_outputs
from overq.nn.layers import CHANNEL_DIM, can_quantize, input_groups, input_lanes, kind
from overq.nn.observation import Observations
from overq.nn.recipe import EDGE
from overq.spec import Format

AT_ONCE = 32  # images; some methods need ten times the memory of what they transform
COST_ROWS = 4096  # sampled channel vectors that a data-dependent cost is averaged over


def fit(model: nn.Module, seen: Observations, method: Method) -> dict[str, Fitted]:
    """For each layer reached, the method with the step it found; weights have no part in it.

    The first and the last layer get 8 plain bits (step from the greatest value); a layer with one channel a group has no neighbours
    and gets plain activations of the method's bits. Raises CalibrationError where the samples reached no layer or were another model's.
    """
    layers = {name: m for name, m in model.named_modules() if can_quantize(m)}
    names = list(seen.layers)
    if not names or not set(names) <= layers.keys():
        raise CalibrationError("the observations reached no layer, or are of another model")
    return {
        name: _edge(observed) if name in (names[0], names[-1]) else _suited(method, layers[name]).fit(observed.sample, observed.signed)
        for name, observed in seen.layers.items()
    }


def install(
    model: nn.Module,
    seen: Observations,
    method: Method,
    weight_bits: int = 8,
    fitted: dict[str, Fitted] | None = None,
    outputs: Outputs | None = None,
) -> tuple[nn.Module, Cost]:
    """A copy of `model` in eval mode that computes with the method's activations and weights, and the method's average cost.

    The first and the last layer get plain weights of 8 bits. The cost is the mean over the values that enter the layers between,
    where methods differ; a network without such layers is counted by all of its layers.
    fitted: what `fit` gave for these observations and this method, where that is known already.
    outputs: of the float model; bias correction then gives every layer, the first and the last too, their mean and spread.
    """
    fitted = fit(model, seen, method) if fitted is None else fitted
    result = copy.deepcopy(model).eval()
    layers: dict[str, Any] = dict(result.named_modules())
    edge = (next(iter(seen.layers)), next(reversed(seen.layers)))
    costs: list[tuple[Cost, int]] = []
    edges: list[tuple[Cost, int]] = []
    for name, mine in fitted.items():
        layer, observed = layers[name], seen.layers[name]
        with torch.no_grad():
            layer.weight.copy_(mine.method.weights(layer.weight.detach(), EDGE.weight_bits if name in edge else weight_bits))
        layer.register_forward_pre_hook(_Overwrite(mine))
        cost = mine.cost(calib.thinned(observed.sample, COST_ROWS), weight_bits=weight_bits)
        (edges if name in edge else costs).append((cost, observed.values))
    if outputs is not None:
        correct_outputs(result, outputs, fitted)
    return result, mean_cost(costs or edges)


class _Overwrite:
    """The hook that replaces a layer's input; lanes never cross a group."""

    def __init__(self, fitted: Fitted) -> None:
        self.fitted = fitted

    def __call__(self, layer: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x, dim, groups = args[0], CHANNEL_DIM[kind(layer)], input_groups(layer)
        grouped = x if groups == 1 else x.unflatten(dim, (groups, -1))
        parts = grouped.split(AT_ONCE) if grouped.ndim + dim > 0 else (grouped,)  # an unbatched input begins with its channels
        done = [self.fitted(part, axis=dim) for part in parts]
        return ((done[0] if len(done) == 1 else torch.cat(done)).reshape(x.shape), *args[1:])


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
