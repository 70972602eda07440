"""Settings that `overq.quantize` runs: a number format and a recipe, spelled as the flat keys of a study file, or a recipe's JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from overq.errors import FormatError
from overq.integer import integer_network
from overq.methods import METHODS, Cost, dynamic, method_of
from overq.nn import Observations, Recipe, observe, observe_sequentially, quantize
from overq.nn.cost import cost_of
from overq.spec import Format
from overq.tune import reorder_network
from overq.tune.assign import best_assignment, unit_of
from overq.tune.sensitivity import LOSSES, Sensitivity

RECIPE = "recipe"  # in place of a method's name: the keys of a number format stand for the method
OLD_KEYS = ("range_overwrite", "precision_overwrite")  # of studies before range_bits and fraction_bits, see Format
FORMAT_KEYS = ("bits", "cascade", "range_bits", "fraction_bits", "policy", "lanes", "evict", *OLD_KEYS)
DYNAMIC_KEYS = ("dynamic", "group")  # of steps for each vector, or for each group of its lanes: `overq.methods.Dynamic`
MODE_KEYS = FORMAT_KEYS[2:]  # mean nothing where cascade is 0
OUTSIDE = ("method", "weight_bits", "first", "last", "overrides", "seed")  # of a recipe, said elsewhere
RECIPE_KEYS = tuple(f.name for f in fields(Recipe) if f.name not in (*OUTSIDE, "range_bits"))
FOLDED = "fold_rotation"  # the network with a rotation folded into its weights: `overq.nn.folding`
OWN_KEYS = (FOLDED, "reorder_network", "integers", "edges", "budget", "unit", "mix", "loss")
FLAGS = ("sequential", "bias_correction", "fold_rotation", "reorder_network", "integers", "edges")
_DEFAULTS = [
    (key, value, str(value))  # the text tells False from 0
    for key, value in {
        "policy": "first", "calibration": "format-mse", "reorder": False, "equalize": 0.0, "bias_correction": False, "sequential": False,
        "source": "images", "rotate": False, FOLDED: False, "reorder_network": False, "integers": False, "edges": True,
        "unit": "stored", "loss": "mse", "mix": "overq", "evict": 0, "weight_rounding": "nearest", "shift": False,
        "dead_zone": 0.0, "dynamic": "",
    }.items()
]  # fmt: skip
_PLAIN = tuple(Format.plain(bits) for bits in range(2, 9))
_OVERQ = tuple(Format(bits, 1, fraction_bits=0) for bits in range(2, 7)) + tuple(Format(bits, 4) for bits in range(2, 6))
MIXES = {"overq": _PLAIN + _OVERQ, "plain": _PLAIN}  # candidates for each layer of a recipe with a budget
FILE, JSON = "file", "json"  # a recipe of a file: its name, and what the file holds
FILE_KEYS = (FILE, JSON, "fold_rotation", "reorder_network", "integers")


def canonical(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """In one order, without defaults and without what a plain format does not use: what means the same is one setting with one label."""
    for old, new in zip(OLD_KEYS, ("range_bits", "fraction_bits"), strict=True):
        if isinstance(parameters.get(old), bool) and new not in parameters:
            parameters = {key: value for key, value in parameters.items() if key != old} | ({} if parameters[old] else {new: 0})
    plain = parameters.get("cascade") == 0
    order = {key: i for i, key in enumerate((*FORMAT_KEYS, *DYNAMIC_KEYS, *RECIPE_KEYS, *OWN_KEYS))}
    kept = [key for key in parameters if not (plain and key in MODE_KEYS) and (key, parameters[key], str(parameters[key])) not in _DEFAULTS]
    return {key: parameters[key] for key in sorted(kept, key=lambda key: order.get(key, len(order)))}


def lean(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Of a method's own parameters and a recipe's beside them, without those that are the recipe's default: reorder = false is no setting
    of its own."""
    shared = (*RECIPE_KEYS, *DYNAMIC_KEYS)
    return {key: value for key, value in parameters.items() if key not in shared or (key, value, str(value)) not in _DEFAULTS}


def recipe_of(parameters: Mapping[str, Any], weight_bits: int, seed: int = 0, method: str = RECIPE) -> Recipe:
    """What the keys spell; first layer and classifier keep 8 plain bits and 8-bit weights. FormatError where they make no sense.

    method  a name in METHODS: its own parameters stand beside the recipe's; "recipe": the keys of a number format stand there, or
            `file` and `json` with what a recipe's file holds
    """
    if JSON in parameters:
        return _of_file(parameters, seed)
    if method not in (RECIPE, *METHODS):
        raise FormatError(f"no method {method!r}; there are {', '.join(METHODS)}")
    own = FORMAT_KEYS if method == RECIPE else tuple(f.name for f in fields(METHODS[method]))
    known = (*own, *DYNAMIC_KEYS, *RECIPE_KEYS, *OWN_KEYS)
    for key, value in parameters.items():
        if key not in known:
            what = "a recipe has no key" if method == RECIPE else f"method {method!r} has no parameter"
            raise FormatError(f"{what} {key!r}; there are {', '.join(known)}")
        if key in ("calibration", "policy") and not isinstance(value, str):
            raise FormatError(f"a recipe's {key} must be a name, not {value!r}")
    for key in FLAGS:
        if not isinstance(parameters.get(key, False), bool):
            raise FormatError(f"{'a recipe' if method == RECIPE else method}'s {key} must be true or false, not {parameters[key]!r}")
    _check_budget(parameters, method)
    wanted = {key: value for key, value in parameters.items() if key in own}
    if wanted.get("cascade") == 0:
        wanted = {key: value for key, value in wanted.items() if key not in OLD_KEYS}
    rest = {key: value for key, value in parameters.items() if key in RECIPE_KEYS}
    if method == RECIPE and wanted.get("range_bits") == "auto":  # of the recipe, not of the format
        rest["range_bits"] = wanted.pop("range_bits")
    static = method_of(Format(**wanted)) if method == RECIPE else METHODS[method](**wanted)
    made = dynamic(static, parameters.get("dynamic", ""), parameters.get("group"))
    recipe = Recipe(made, weight_bits, seed=seed, **rest)
    return recipe if parameters.get("edges", True) else recipe.with_(first=None, last=None)


def _of_file(parameters: Mapping[str, Any], seed: int) -> Recipe:
    """The recipe that a file holds, with the study's seed; it says all, but for what only a study does."""
    if odd := [key for key in parameters if key not in FILE_KEYS]:
        raise FormatError(f"a recipe of a file says itself what {odd[0]!r} would; there are {', '.join((FILE, *FILE_KEYS[2:]))}")
    for key in FILE_KEYS[2:]:
        if not isinstance(parameters.get(key, False), bool):
            raise FormatError(f"a recipe's {key} must be true or false, not {parameters[key]!r}")
    return Recipe.from_json(json.loads(parameters[JSON])).with_(seed=seed)


def _check_budget(parameters: Mapping[str, Any], method: str) -> None:
    if parameters.get(FOLDED) and any(parameters.get(key) for key in ("budget", "bias_correction", "reorder_network")):
        raise FormatError(f"a recipe with {FOLDED} goes with neither budget, bias_correction nor reorder_network")
    if "budget" in parameters and method != RECIPE:
        raise FormatError(f"a budget finds a format for each layer: write it below [[recipes]], not for the method {method!r}")
    if "budget" not in parameters:
        for key in ("unit", "mix", "loss"):
            if key in parameters:
                raise FormatError(f"a recipe's {key} says how a budget is kept: give a budget, too")
        return
    if fixed := [key for key in (*FORMAT_KEYS, *DYNAMIC_KEYS) if key in parameters]:
        raise FormatError(f"a recipe with a budget finds its formats itself: leave {fixed[0]} out")
    budget = parameters["budget"]
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not math.isfinite(budget):
        raise FormatError(f"a recipe's budget must be a number of bits, not {budget!r}")
    unit_of(parameters.get("unit", "stored"))
    for key, known in (("mix", MIXES), ("loss", LOSSES)):
        if parameters.get(key, next(iter(known))) not in known:
            raise FormatError(f"a recipe's {key} must be one of {', '.join(known)}, not {parameters[key]!r}")


def mixed(measured: Sensitivity, parameters: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """`recipe` with a format for each layer: least summed loss under the budget, of the candidates of the mix."""
    allowed = MIXES[parameters.get("mix", "overq")]
    layers = tuple(replace(layer, trials=tuple(t for t in layer.trials if t.candidate in allowed)) for layer in measured.layers)
    found = best_assignment(replace(measured, layers=layers), parameters["budget"], parameters.get("unit", "stored"))
    return found.recipe.with_(bias_correction=recipe.bias_correction, sequential=recipe.sequential)


def install_recipe(
    model: nn.Module,
    seen: Observations,
    samples: Iterable[torch.Tensor] | Observations,
    recipe: Recipe,
    parameters: Mapping[str, Any],
    corrected_on: Any = None,
    measured: Callable[[], Sensitivity] | None = None,
) -> tuple[nn.Module, Cost]:
    """The quantized copy of `model` and its average cost.

    seen: what the layers of the float model see. samples: the batches it was observed on, iterable again and again; `seen` without any.
    recipe, parameters: what a setting spells, and its own keys.
    corrected_on: what bias correction runs, if not all samples: some of them, or `nn.chosen.Chosen`.
    measured: what each layer loses in every format of MIXES, for a recipe with a budget.
    """
    if "budget" in parameters:
        assert measured is not None  # the caller looks at the parameters, too
        recipe = mixed(measured(), parameters, recipe)
    if parameters.get("reorder_network", False):
        model = reorder_network(model, seen, recipe)
        seen = observe(model, samples, seed=recipe.seed)
    if recipe.sequential:
        seen, recipe = observe_sequentially(model, samples, recipe, seen=seen), recipe.with_(sequential=False)
    result = installed(model, seen, samples, recipe, corrected_on)
    return Integers(result) if parameters.get("integers", False) else result, cost_of(result, seen)


def installed(model: nn.Module, seen: Observations, samples: Any, recipe: Recipe, corrected_on: Any = None) -> nn.Module:
    """The quantized copy, its layers observed behind each other where the recipe says so, its biases corrected on `corrected_on`."""
    if recipe.sequential:
        seen, recipe = observe_sequentially(model, samples, recipe, seen=seen), recipe.with_(sequential=False)
    return quantize(model, samples if corrected_on is None or not recipe.bias_correction else corrected_on, recipe, seen=seen)


class Integers(nn.Module):
    """A network in integers only, as a module; its output in the float network's unit."""

    def __init__(self, quantized: nn.Module) -> None:
        super().__init__()
        self.network = integer_network(quantized)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x).double() * self.network.unit
