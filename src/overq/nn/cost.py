"""What a quantized network's activations cost on average, with the samples that calibrated it."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from overq import calib
from overq.methods import Cost
from overq.nn.observation import Observations
from overq.nn.quantized import Quantized

COST_ROWS = 4096  # sampled channel vectors that a data-dependent cost is averaged over


def cost_of(model: nn.Module, seen: Observations) -> Cost:
    """The mean over the values that enter the layers between the first and the last, where methods differ; a network without such layers
    is counted by all of its layers. A tensor that several layers read counts once. `seen` calibrated `model`, a quantized one."""
    names, shared = list(seen.layers), set[int]()
    costs: dict[str, tuple[Cost, int]] = {}
    for name, layer in model.named_modules():
        if name in seen.layers and isinstance(layer, Quantized) and id(layer.shared) not in shared:
            shared |= {id(layer.shared)} if layer.shared is not None else set()
            vectors = layer.arrangement.cpu().vectors(calib.thinned(seen.layers[name].sample, COST_ROWS))
            cost = layer.fitted.cost(vectors, weight_bits=layer.weight_bits)
            if layer.input_shift is not None:  # one bit a vector
                cost = replace(cost, metadata_bits=cost.metadata_bits + 1 / vectors.shape[1])
            costs[name] = cost, seen.layers[name].values
    between = [costs[name] for name in names[1:-1] if name in costs]
    return mean_cost(between or [costs[name] for name in names if name in costs])


def mean_cost(costs: list[tuple[Cost, int]]) -> Cost:
    """The mean over values, from (cost of one, how many) of each layer."""
    total = sum(values for _, values in costs)

    def mean(field: str) -> float:
        return sum(getattr(cost, field) * values for cost, values in costs) / total

    width = costs[0][0].weight_bits
    return Cost(mean("payload_bits"), mean("metadata_bits"), mean("activation_bits"), width, mean("extra_lanes"))
