"""Products spelled as functions, in `quantize` and `load`: what is fitted for them, and the modules that then quantize them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from overq.errors import CalibrationError
from overq.methods import Fitted
from overq.nn.fit import LayerFit, fit_layer
from overq.nn.observation import Observations
from overq.nn.quantized import Parts
from overq.nn.recipe import LayerRule, Recipe
from overq.nn.report import LayerReport
from overq.nn.sites import Calls, Factor, Multiplies, Site, convert_calls, with_values
from overq.nn.weights import dequantize_weight


def stand_in(site: Site, model: nn.Module) -> nn.Linear:
    """A layer to fit in place of a parameter that a function multiplies with: its rows are the layer's outputs."""
    rows = site.weight(parameter_of(site, model))
    layer = nn.Linear(rows.shape[1], rows.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(rows, requires_grad=False)
    return layer


def parameter_of(site: Site, model: nn.Module) -> nn.Parameter:
    parameter = model.get_submodule(site.module)._parameters[site.key]
    assert parameter is not None
    return parameter


def factor_rules(recipe: Recipe, seen: Observations) -> dict[str, LayerRule]:
    """The rule of each factor of a product of two activations; none where the recipe leaves them float.

    CalibrationError where the recipe asks for them and the observations do not hold them.
    """
    if recipe.products is None:
        return {}
    if not seen.products:
        raise CalibrationError("the recipe quantizes products of activations: observe(..., products=True), or give quantize the samples")
    return {name: recipe.of_product(name) for name in seen.factors}


def fit_factor(name: str, seen: Observations, rule: LayerRule) -> LayerFit:
    """One factor of a product of two activations."""
    observed, site = seen.factors[name], seen.sites[name]
    lanes = nn.Linear(observed.sample.shape[1], 1, bias=False)
    fit = fit_layer(name, lanes, observed, rule, seen.fits)
    return replace(fit, report=replace(fit.report, kind=site.role, weight_bits=0))


def convert_sites(
    model: nn.Module, sites: Iterable[tuple[Site, Fitted]], values: Mapping[str, Parts | None], multiplying: Iterable[str]
) -> None:
    """Quantize products of `model` in place.

    sites        each with its fitted method
    values       by name of a site with a parameter: what it is multiplied with; None where the parameter holds that already
    multiplying  all modules whose forward multiplies activations: they count their calls, though none may be quantized
    """
    calls: dict[str, Calls] = {}
    for site, fitted in sites:
        mine, factor = calls.setdefault(site.module, Calls()), Factor(site, fitted)
        if site.axis is None:
            mine.products.setdefault(site.key, {})[site.role] = factor
            continue
        mine.weights[site.key] = factor
        if (parts := values[site.name]) is not None:
            parameter = parameter_of(site, model)
            rows = dequantize_weight(parts.integers, parts.scale, torch.float32)
            model.get_submodule(site.module)._parameters[site.key] = with_values(parameter, site.as_held(rows, parameter))
    if not calls:
        return
    for name in (*calls, *(name for name in multiplying if name not in calls)):
        module = model.get_submodule(name)
        if not isinstance(module, Multiplies):
            convert_calls(module, calls.get(name, Calls()))


def factors_of(model: nn.Module) -> dict[str, Factor]:
    """By name, the factors that a model quantizes at functions' calls."""
    found = (m.overq_calls.factors() for m in model.modules() if isinstance(m, Multiplies))
    return {factor.site.name: factor for factors in found for factor in factors}


def described(model: nn.Module) -> list[dict[str, Any]]:
    """Plain JSON values of all sites, for `save`."""
    return [vars(factor.site) for factor in factors_of(model).values()]


def of_products(seen: Observations, factors: Iterable[str], reports: Iterable[LayerReport]) -> dict[tuple[str, str], str]:
    """(module, "") whose products of activations have every factor quantized, and ("", parameter) -> their bits in words."""
    bits = {r.name: r.bits_in_words for r in reports}
    found = {("", site.name): bits[site.name] for site in seen.sites.values() if site.axis is not None and site.name in bits}
    for module in seen.multiplying:
        all_of_it = [site.name for site in seen.sites.values() if site.axis is None and site.module == module]
        if all_of_it and all(name in bits for name in all_of_it):
            found[module, ""] = " × ".join(dict.fromkeys(bits[name] for name in all_of_it))
    return found


def macs_of(site: Site, sites: Iterable[Site], work: Iterable[Any]) -> int:
    """Multiply-accumulates of the samples that a site's product takes: those of a module's products stand at the first of its `sites`."""
    if site.axis is not None:
        return sum(w.macs for w in work if w.weight == site.name)
    if site != next(other for other in sites if other.axis is None and other.module == site.module):
        return 0
    return sum(w.macs for w in work if w.module == site.module and not w.weight)
