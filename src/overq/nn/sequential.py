"""Sequential calibration: each layer is observed behind the layers already quantized, so that it sees their errors."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from overq.nn.call import Forward, run
from overq.nn.convert import replaced
from overq.nn.fit import fit_layer
from overq.nn.layers import can_quantize
from overq.nn.observation import Observations, observe
from overq.nn.recipe import Recipe


def observe_sequentially(model: nn.Module, samples: Any, recipe: Recipe, *, forward: Forward = run) -> Observations:
    """What each layer sees if all layers before it are quantized as `recipe` says; for `quantize(model, observations, recipe)`.

    samples  as for `observe`, but run once for each layer, so no one-way iterator
    """
    seen = observe(model, samples, forward=forward, seed=recipe.seed)
    partial = copy.deepcopy(model).eval()
    names = list(seen.layers)
    for name in names:
        seen.layers[name] = observe(partial, samples, forward=forward, seed=recipe.seed, only=name, like=seen.stream).layers[name]
        rule = recipe.rule(name, first=name == names[0], last=name == names[-1])
        if not rule.skip:
            layer = dict(partial.named_modules())[name]
            assert can_quantize(layer)
            partial = replaced(partial, {layer: fit_layer(name, layer, seen.layers[name], rule)[1]})
    return seen
