"""Sequential calibration: each layer is observed behind the layers already quantized, so that it sees their errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from overq.errors import CalibrationError
from overq.nn.call import Forward, run
from overq.nn.convert import quantizable
from overq.nn.fit import fit_layer
from overq.nn.observation import Observations, observe
from overq.nn.padding import Mask
from overq.nn.quantized import convert_layer
from overq.nn.recipe import Recipe
from overq.nn.replica import ready


def observe_sequentially(
    model: nn.Module,
    samples: Any,
    recipe: Recipe,
    *,
    forward: Forward = run,
    mask: Mask | None = None,
    seen: Observations | None = None,
) -> Observations:
    """What each layer sees if all layers before it are quantized as `recipe` says; for `quantize(model, observations, recipe)`.

    samples  as for `observe`, but run once for each layer: neither a one-way iterator nor observations
    seen     what `observe` gave on them, where that is known already
    """
    if isinstance(samples, Observations):
        raise CalibrationError("sequential observation runs the samples again: give them to quantize, the observations as seen=")
    if isinstance(samples, Iterable) and iter(samples) is samples:
        raise CalibrationError("sequential observation runs the samples again: give a tensor, a list or a loader, not a one-way iterator")
    seen = observe(model, samples, forward=forward, mask=mask, seed=recipe.seed) if seen is None else seen
    found, partial = replace(seen, layers=dict(seen.layers), fits={}), ready(model)
    layers = quantizable(partial, seen)
    for name, rule in recipe.rules(list(seen.layers)).items():
        again = observe(partial, samples, forward=forward, mask=mask, seed=recipe.seed, only=name, like=seen.stream)
        found.layers[name] = again.layers.get(name, seen.layers[name])  # an expert may get nothing behind quantized layers
        if not rule.skip and name in layers:
            convert_layer(layers[name], fit_layer(name, layers[name], found.layers[name], rule, found.fits).parts)
    return found
