"""Sequential calibration: each layer is observed behind the layers already quantized, so that it sees their errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from overq.errors import CalibrationError
from overq.nn.call import Forward, run
from overq.nn.convert import Progress, quantizable, quiet
from overq.nn.fit import fit_tensor
from overq.nn.observation import Observations, observe
from overq.nn.padding import Mask
from overq.nn.quantized import Parts, convert_layer
from overq.nn.recipe import Recipe
from overq.nn.replica import ready
from overq.nn.tensors import readers, rules_of


def observe_sequentially(
    model: nn.Module,
    samples: Any,
    recipe: Recipe,
    *,
    forward: Forward = run,
    mask: Mask | None = None,
    seen: Observations | None = None,
    progress: Progress = quiet,
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
    found, partial = replace(seen, layers=dict(seen.layers), fits={}), ready(model, borrow=True)
    layers = quantizable(partial, seen)
    together, rules = readers(seen), rules_of(recipe, seen)
    parts: dict[str, Parts] = {}
    for done, name in enumerate(rules):
        progress("layer behind layer", done, len(rules))
        group = together[name]
        if group[0] == name and name not in seen.sites:  # the others read the same; functions keep what they saw
            again = observe(partial, samples, forward=forward, mask=mask, seed=recipe.seed, only=name, like=seen.stream)
            of_all = again.layers.get(name, seen.layers[name])  # an expert may get nothing behind quantized layers
            found.layers.update(dict.fromkeys(group, of_all))
            quantized = {n: layers[n] for n in group if n in layers and not rules[n].skip}
            parts |= {n: fit.parts for n, fit in fit_tensor(quantized, of_all, rules, found.fits).items()} if quantized else {}
        if name in parts:
            convert_layer(layers[name], parts[name])
    return found
