"""Settings that `overq.quantize` runs: a number format and a recipe, spelled as the flat keys of a study file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from overq.errors import FormatError
from overq.methods import Cost
from overq.nn import Observations, Recipe, observe_sequentially, quantize, summary
from overq.nn.peers import mean_cost
from overq.spec import Format

OLD_KEYS = ("range_overwrite", "precision_overwrite")  # of studies before range_bits and fraction_bits, see Format
FORMAT_KEYS = ("bits", "cascade", "range_bits", "fraction_bits", "policy", "lanes", *OLD_KEYS)
MODE_KEYS = FORMAT_KEYS[2:]  # mean nothing where cascade is 0
RECIPE_KEYS = tuple(f.name for f in fields(Recipe) if f.name not in ("format", "weight_bits", "first", "last", "overrides", "seed"))
OWN_KEYS = ("sequential", "source")  # observe each layer behind the quantized ones before it; what is observed
SOURCES = ("images", "statistics", "distilled")  # calibration images, or none: batch norm statistics, or images made from them


def canonical(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a plain format does not use, so that lists which multiply out give a plain setting once."""
    plain = parameters.get("cascade") == 0
    return {key: value for key, value in parameters.items() if not (plain and key in MODE_KEYS)}


def recipe_of(parameters: Mapping[str, Any], weight_bits: int, seed: int = 0) -> Recipe:
    """What the keys spell; first layer and classifier keep 8 plain bits and 8-bit weights. FormatError where they make no sense."""
    known = (*FORMAT_KEYS, *RECIPE_KEYS, *OWN_KEYS)
    for key, value in parameters.items():
        if key not in known:
            raise FormatError(f"a recipe has no key {key!r}; there are {', '.join(known)}")
        if key in ("calibration", "policy") and not isinstance(value, str):
            raise FormatError(f"a recipe's {key} must be a name, not {value!r}")
    if not isinstance(parameters.get("sequential", False), bool):
        raise FormatError(f"a recipe's sequential must be true or false, not {parameters['sequential']!r}")
    wanted = {key: value for key, value in parameters.items() if key in FORMAT_KEYS}
    if wanted.get("cascade") == 0:
        wanted = {key: value for key, value in wanted.items() if key not in OLD_KEYS}
    source = parameters.get("source", "images")
    if source not in SOURCES:
        raise FormatError(f"a recipe's source must be one of {', '.join(SOURCES)}, not {source!r}")
    if source == "statistics" and (parameters.get("sequential") or parameters.get("bias_correction")):
        raise FormatError('a recipe with source = "statistics" has no images, which sequential and bias_correction need')
    rest = {key: value for key, value in parameters.items() if key in RECIPE_KEYS}
    return Recipe(Format(**wanted), weight_bits, seed=seed, **rest)


def install_recipe(
    model: nn.Module,
    seen: Observations,
    samples: Iterable[torch.Tensor] | Observations,
    parameters: Mapping[str, Any],
    weight_bits: int,
    seed: int,
    corrected_on: list[torch.Tensor] | None = None,
) -> tuple[nn.Module, Cost]:
    """The quantized copy of `model` and its average cost, counted as `overq.nn.peers.install` counts it.

    seen: what the layers of the float model see. samples: the batches it was observed on, iterable again and again; `seen` without any.
    corrected_on: the batches for bias correction, if not all samples.
    """
    recipe = recipe_of(parameters, weight_bits, seed)
    if parameters.get("sequential", False):
        seen = observe_sequentially(model, samples, recipe)
    result = quantize(model, samples if corrected_on is None else corrected_on, recipe, seen=seen)
    names = list(seen.layers)
    costs: list[tuple[Cost, int]] = []
    edges: list[tuple[Cost, int]] = []
    for layer in summary(result):
        cost = Cost(layer.format.bits, layer.format.state_bits, layer.format.bits, weight_bits)
        (edges if layer.name in (names[0], names[-1]) else costs).append((cost, seen.layers[layer.name].values))
    return result, mean_cost(costs or edges)
