"""quantize: a float model in, the same model with quantized layers out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from overq.errors import CalibrationError, FormatError, InputError, MostlyFloatWarning
from overq.nn.bias import choose, correct_outputs, observe_outputs
from overq.nn.call import Forward, run
from overq.nn.chosen import one_input
from overq.nn.fit import fit_layer
from overq.nn.layers import (
    FloatLayer,
    can_quantize,
    input_lanes,
)
from overq.nn.notes import layer_notes, run_notes
from overq.nn.observation import Observations, check_weights, observe
from overq.nn.padding import Mask
from overq.nn.recipe import Recipe
from overq.nn.report import LayerReport, Summary
from overq.nn.shares import in_words, of_layer, shares

DEFAULT_RECIPE = Recipe()
HALF = 0.5  # of the multiply-accumulates: with less quantized, `quantize` warns


def quantize(
    model: nn.Module,
    samples: Any,
    recipe: Recipe = DEFAULT_RECIPE,
    *,
    forward: Forward = run,
    mask: Mask | None = None,
    seen: Observations | None = None,
) -> nn.Module:
    """A quantized copy of `model`, in eval mode; the given model is left as it was.

    model    any module; every Conv1d, Conv2d and Linear that the samples reach gets integer weights and an overwritten
             input. Layers with a forward of their own, transposed convolutions and the like stay float; `summary` lists them.
    samples  unlabelled calibration batches as for `observe`, or the Observations it returned
    recipe   number format, calibration, exceptions
    forward, mask  as for `observe`
    seen     what `observe` returned on these samples, where that is known already: saves a run of the model

    Warns with MostlyFloatWarning where less than half of the multiply-accumulates are quantized.
    Raises CalibrationError (no samples, NaN, no layer reached), FormatError (an override that matches no layer).
    """
    check_weights(model)
    if seen is None:
        seen = samples if isinstance(samples, Observations) else observe(model, samples, forward=forward, mask=mask, seed=recipe.seed)
        samples = seen
    chosen = choose(model, samples, forward=forward, mask=mask, seed=recipe.seed) if recipe.bias_correction else None
    if not seen.layers:
        raise CalibrationError("the samples reached no Conv1d, Conv2d or Linear layer: there is nothing to quantize")
    result = copy.deepcopy(model).eval()
    layers = {name: module for name, module in result.named_modules() if can_quantize(module)}
    _check(recipe, seen, layers)
    reached = list(seen.layers)
    reports: list[LayerReport] = []
    replacement: dict[nn.Module, nn.Module] = {}
    for name in reached:
        rule = recipe.rule(name, first=name == reached[0], last=name == reached[-1])
        if not rule.skip:
            report, replacement[layers[name]] = fit_layer(name, layers[name], seen.layers[name], rule)
            known = _joined(report.note, *layer_notes(name, layers[name], report.format, seen))
            reports.append(replace(report, note=known, macs=of_layer(seen.count, name)))
    left = tuple(left_float(result, {r.name for r in reports}, set(reached)))
    result = replaced(result, replacement)
    if chosen is not None:
        correct_outputs(result, observe_outputs(model, chosen), [r.name for r in reports])
        reports = [replace(report, note=_joined(report.note, "bias corrected")) for report in reports]
    facts = Summary(
        tuple(reports),
        left,
        shares(seen.count, {r.name: r.bits_in_words for r in reports}) if seen.count else (),
        (*run_notes(seen), *([f"biases corrected on {chosen.rows} of {chosen.of} samples"] if chosen else [])),
    )
    if facts.quantized_share < HALF:
        warnings.warn(f"most of the model stays in float: {in_words(facts.shares)}", MostlyFloatWarning, stacklevel=2)
    attach(result, facts, recipe)
    result.overq_example = one_input(seen.chosen)  # type: ignore[assignment]  # for `integer_network` to check itself on
    return result


def _joined(*notes: str) -> str:
    return ", ".join(filter(None, notes))


def _check(recipe: Recipe, seen: Observations, layers: dict[str, FloatLayer]) -> None:
    """Refuse, before work starts, observations of another model and patterns that match nothing."""
    for name, observed in seen.layers.items():
        if name not in layers or observed.sample.shape[1] != input_lanes(layers[name]):
            raise CalibrationError(f"the observations are of another model: its layer {name!r} is not like this model's")
        if not torch.isfinite(layers[name].weight).all():
            raise CalibrationError(f"layer {name!r}: its weights hold NaN or infinity")
    if unmatched := recipe.unmatched(list(layers)):
        raise FormatError(
            f"override {unmatched[0]!r} matches no layer; layers are {', '.join(list(layers)[:6])}{', …' if len(layers) > 6 else ''}"
        )


def replaced(model: nn.Module, replacement: dict[nn.Module, nn.Module]) -> nn.Module:
    """`model` with modules exchanged in place, wherever and however often they occur."""
    if model in replacement:
        return replacement[model]
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child in replacement:
                parent._modules[key] = replacement[child]
    return model


def left_float(model: nn.Module, quantized: set[str], reached: set[str]) -> Iterator[tuple[str, str]]:
    """(name, reason) of every module that owns a weight matrix and was not quantized."""
    for name, module in model.named_modules():
        if name in quantized or not any(p.ndim >= 2 for p in module.parameters(recurse=False)):
            continue
        what = type(module).__name__
        if not can_quantize(module):
            yield name, f"{what} is not a layer that overq quantizes"
        elif name in reached:
            yield name, "a rule of the recipe skips it"
        else:
            yield name, f"the samples never ran this {what}"


def attach(model: nn.Module, facts: Summary, recipe: Recipe) -> None:
    """Let a quantized model carry what is known of it; `summary` and `save` read it."""
    model.overq_summary = facts  # type: ignore[assignment]
    model.overq_recipe = recipe  # type: ignore[assignment]


def summary(model: nn.Module) -> Summary:
    """Per layer: step, bits, zeros, outliers, served, coverage beside 1-(1-p)^c, SQNR; then what stayed float, and why."""
    facts = getattr(model, "overq_summary", None)
    if not isinstance(facts, Summary):
        raise InputError("summary needs a model that overq.quantize or overq.load returned")
    return facts
