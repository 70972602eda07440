"""quantize: a float model in, the same model with quantized layers out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from overq.calib import Observed
from overq.errors import CalibrationError, FormatError, InputError, MostlyFloatWarning
from overq.nn.bias import choose, correct_outputs, observe_outputs
from overq.nn.call import Forward, run
from overq.nn.candidates import can_quantize, why_float
from overq.nn.check import check_copy
from overq.nn.chosen import one_input
from overq.nn.convert_sites import (
    convert_sites,
    factor_rules,
    factors_of,
    fit_factor,
    macs_of,
    of_products,
    parameter_of,
    stand_in,
)
from overq.nn.fit import LayerFit, fit_tensor
from overq.nn.grams import grams as grams_of
from overq.nn.grams import wanting
from overq.nn.layers import FloatLayer, input_lanes
from overq.nn.notes import layer_notes, run_notes
from overq.nn.observation import Observations, check_weights, observe
from overq.nn.padding import Mask
from overq.nn.quantized import Quantized, convert_layer
from overq.nn.reads import STRAY
from overq.nn.recipe import LayerRule, Recipe
from overq.nn.replica import own, ready
from overq.nn.report import LayerReport, Summary
from overq.nn.shared import share
from overq.nn.shares import in_words, of_layer, shares
from overq.nn.sites import Factor, Site
from overq.nn.tensors import readers, rules_of

DEFAULT_RECIPE = Recipe()
Progress = Callable[[str, int, int], None]
HALF = 0.5  # of the multiply-accumulates: with less quantized, `quantize` warns


def quiet(what: str, done: int, total: int) -> None:
    """Nobody is told."""


def quantize(
    model: nn.Module,
    samples: Any,
    recipe: Recipe = DEFAULT_RECIPE,
    *,
    forward: Forward = run,
    mask: Mask | None = None,
    seen: Observations | None = None,
    check: bool = True,
    progress: Progress = quiet,
) -> nn.Module:
    """A quantized copy of `model`, in eval mode; the given model is left as it was.

    Memory beside the model: the copy, whose layers also hold their integers, and a few times the largest layer on the way.

    model    any module; every convolution, plain or transposed, and matrix product layer (`nn.Linear`, those of `nn.MultiheadAttention`,
             LSTM, GRU and RNN, `transformers`' Conv1D) that the samples reach gets integer weights and a quantized input, and keeps its
             hooks and attributes. Layers with a forward of their own and the like stay float; `summary` says why.
    samples  unlabelled calibration batches as for `observe`, or the Observations it returned; those of `overq.datafree.seen` where the
             recipe's source is not "images"
    recipe   method, calibration, transforms, exceptions
    forward, mask  as for `observe`
    seen     what `observe` returned on these samples, where that is known already: saves a run of the model
    check    run a few samples through the copy with its quantizers switched off and through the model (`nn.check`): FidelityError where
             they differ or a quantizer does not run
    progress told (what, layers done, of how many) while steps, orders and weights are found; `Images.watched` tells of samples

    Warns with MostlyFloatWarning where less than half of the multiply-accumulates are quantized.
    Raises CalibrationError (no samples, NaN, no layer reached), FormatError (an override that matches no layer), InputError (a model that
    is quantized already).
    """
    check_weights(model)
    if held := next((name for name, module in model.named_modules() if isinstance(module, Quantized)), None):
        raise InputError(f"layer {held!r} is quantized already: quantize the float model")
    if isinstance(samples, Observations) and (mask is not None or forward is not run):
        raise CalibrationError("mask and forward belong to observe: these observations are made already")
    given = samples
    if recipe.source != "images" and seen is None and not isinstance(samples, Observations):
        raise InputError(f'the recipe\'s source is "{recipe.source}": quantize what overq.datafree.seen(model, recipe, shape) gives')
    if seen is None:
        watched = recipe.products is not None
        if isinstance(samples, Observations):
            seen = samples
        else:
            seen = observe(model, samples, forward=forward, mask=mask, seed=recipe.seed, products=watched)
        samples = seen
    if recipe.sequential:
        from overq.nn.sequential import observe_sequentially  # which quantizes, too

        seen = observe_sequentially(model, given, recipe, forward=forward, mask=mask, seen=seen, progress=progress)
    some = choose(model, samples, forward=forward, mask=mask, seed=recipe.seed) if recipe.bias_correction else None
    if not seen.layers:
        raise CalibrationError(nothing_reached(seen))
    result = ready(model, borrow=True)
    layers = {name: module for name, module in result.named_modules() if can_quantize(module)}
    weighted = {name: site for name, site in seen.sites.items() if site.axis is not None}
    layers |= {name: stand_in(site, result) for name, site in weighted.items()}
    _check(recipe, seen, layers)
    usable = quantizable(result, seen).keys() | weighted.keys()
    rules = {name: rule for name, rule in rules_of(recipe, seen).items() if not rule.skip and name in usable}
    factors = {name: rule for name, rule in factor_rules(recipe, seen).items() if not rule.skip}
    together = readers(seen)
    left = tuple(left_float(result, rules, seen))
    floats = {name: layers[name].weight.detach() for name in rules if name not in weighted}
    held = {name: parameter_of(site, result).detach() for name, site in weighted.items() if name in rules}
    rounded = wanting(rules, layers, weighted)
    seconds = grams_of(model, seen.chosen, {name: seen.tensors.get(name, name) for name in rounded}) if rounded else {}
    fits: dict[str, LayerFit] = {}
    groups = list(dict.fromkeys(together.values()))
    for done, group in enumerate(groups):
        progress("steps and weights", done, len(groups))
        if quantized := {name: layers[name] for name in group if name in rules}:
            fits |= _fit(quantized, weighted, seen.layers[group[0]], rules, seen.fits, seconds)
    reports: list[LayerReport] = []
    work = seen.count.work if seen.count else ()
    for name in rules:
        report = fits[name].report
        known = _joined(report.note, *layer_notes(name, layers[name], report.format, seen))
        if name in weighted:
            known = _joined(known, *(["a function: channels as they are"] if rules[name].untransformed != rules[name] else []))
            reports.append(replace(report, kind="function", note=known, macs=macs_of(weighted[name], (), work)))
        else:
            reports.append(replace(report, note=known, macs=of_layer(seen.count, name)))
            convert_layer(layers[name], fits[name].parts)
    for name, rule in factors.items():
        fits[name] = fit_factor(name, seen, rule)
        reports.append(replace(fits[name].report, macs=macs_of(seen.sites[name], seen.sites.values(), work)))
    sites = [(seen.sites[name], fits[name].parts.fitted) for name in (*held, *factors)]
    convert_sites(result, sites, {name: fits[name].parts for name in held}, seen.multiplying)
    share_tensors(result, reports)
    if check and seen.chosen is not None:
        check_copy(model, result, floats, seen.chosen, held)
    if some is not None:
        correct_outputs(result, observe_outputs(model, some), floats)
        reports = [replace(r, note=_joined(r.note, "bias corrected")) if r.name in floats else r for r in reports]
    own(result, model)
    facts = Summary(
        tuple(reports),
        left,
        shares(seen.count, {r.name: r.bits_in_words for r in reports}, of_products(seen, factors, reports)) if seen.count else (),
        (*run_notes(seen), *([f"biases corrected on {some.rows} of {some.of} samples"] if some else [])),
    )
    if facts.quantized_share < HALF:
        warnings.warn(f"most of the model stays in float: {in_words(facts.shares)}", MostlyFloatWarning, stacklevel=2)
    attach(result, facts, recipe)
    result.overq_example = one_input(seen.chosen)  # type: ignore[assignment]  # for `integer_network` to check itself on
    return result


def _fit(
    readers: Mapping[str, FloatLayer],
    weighted: Mapping[str, Site],
    observed: Observed,
    rules: Mapping[str, LayerRule],
    known: Any,
    grams: Mapping[str, torch.Tensor],
) -> dict[str, LayerFit]:
    """Layers and functions' products that read one tensor, together; apart where the layers' channels are moved, as functions' are not."""
    if not any(name in weighted and rules[name].untransformed != rules[name] for name in readers):
        return fit_tensor(readers, observed, rules, known, grams)
    functions = {name: layer for name, layer in readers.items() if name in weighted}
    as_they_are = {name: rules[name].untransformed for name in functions}
    rest = {name: layer for name, layer in readers.items() if name not in weighted}
    return fit_tensor(functions, observed, as_they_are, known) | (fit_tensor(rest, observed, rules, known, grams) if rest else {})


def share_tensors(model: nn.Module, reports: Iterable[LayerReport]) -> None:
    """Let what reads the same tensor quantize it once."""
    layers: dict[str, Any] = {**dict(model.named_modules()), **factors_of(model)}
    groups: dict[str, list[Any]] = {}
    for report in reports:
        if report.tensor:
            groups.setdefault(report.tensor, []).append(layers[report.name])
    for group in groups.values():
        share(group)


def quantizable(model: nn.Module, seen: Observations) -> dict[str, FloatLayer]:
    """The layers of `model` that were observed, and whose weights nobody else reads."""
    return {name: m for name, m in model.named_modules() if name in seen.layers and name not in seen.other and can_quantize(m)}


def nothing_reached(seen: Observations) -> str:
    """Why there is nothing to quantize."""
    if stray := next((name for name, use in seen.other.items() if use == STRAY), None):
        return f"the samples ran layer {stray!r} of the given model, not of its copy: `forward` must run the model that it is given"
    return "the samples reached no Conv1d, Conv2d or Linear layer: there is nothing to quantize"


def _joined(*notes: str) -> str:
    return ", ".join(filter(None, notes))


def _check(recipe: Recipe, seen: Observations, layers: dict[str, FloatLayer]) -> None:
    """Refuse, before work starts, observations of another model and patterns that match nothing."""
    for name, observed in seen.layers.items():
        if name not in layers or observed.sample.shape[1] != input_lanes(layers[name]):
            raise CalibrationError(f"the observations are of another model: its layer {name!r} is not like this model's")
        if not torch.isfinite(layers[name].weight).all():
            raise CalibrationError(f"layer {name!r}: its weights hold NaN or infinity")
    check_overrides(recipe, [*layers, *seen.factors])


def check_overrides(recipe: Recipe, layers: list[str]) -> None:
    """Refuse patterns that match no layer: most likely misspelled."""
    if unmatched := recipe.unmatched(layers):
        shown = f"{', '.join(layers[:6])}{', …' if len(layers) > 6 else ''}"
        raise FormatError(f"override {unmatched[0]!r} matches no layer; layers are {shown}")


def left_float(model: nn.Module, quantized: Iterable[str], seen: Observations) -> Iterator[tuple[str, str]]:
    """(name, reason) of every module that owns a weight matrix and is not to be quantized."""
    yield from seen.unsure.items()
    for name, module in model.named_modules():
        own = {f"{name}.{n}" if name else n for n, p in module.named_parameters(recurse=False) if p.ndim >= 2}
        if name in quantized or not own - seen.sites.keys() - seen.unsure.keys():
            if own and not own - seen.sites.keys():
                yield from ((n, "a rule of the recipe skips it") for n in sorted(own - set(quantized)))
            continue
        if reason := why_float(module):
            yield name, reason
        elif name in seen.other and name not in seen.layers and seen.other[name] != STRAY:
            yield name, f"called as a function: {seen.other[name]}"
        elif name in seen.other:
            yield name, f"not only called: {seen.other[name]}" if name in seen.layers else seen.other[name]
        elif name in seen.layers:
            yield name, "a rule of the recipe skips it"
        else:
            yield name, f"the samples never ran this {type(module).__name__}"


def attach(model: nn.Module, facts: Summary, recipe: Recipe) -> None:
    """Let a quantized model carry what is known of it; `summary` and `save` read it."""
    model.overq_summary = facts  # type: ignore[assignment]
    model.overq_recipe = recipe  # type: ignore[assignment]
    model.register_load_state_dict_pre_hook(_check_states)
    if hasattr(model, "save_pretrained"):
        model.save_pretrained = _not_pretrained  # type: ignore[assignment]


def _not_pretrained(*args: Any, **kwargs: Any) -> None:
    raise InputError("save_pretrained would lose the quantization: write the model with overq.save, and read it with overq.load")


def _check_states(model: nn.Module, state: Any, prefix: str, *_: Any) -> None:
    """Before anything is loaded: refuse a state_dict of which one layer does not fit."""
    for name, module in model.named_modules(prefix=prefix.rstrip(".")):
        if isinstance(module, Quantized):
            module.check_state(state, name + "." if name else "")


def summary(model: nn.Module) -> Summary:
    """Per layer: step, bits, zeros, outliers, served, coverage beside 1-(1-p)^c, SQNR; then what stayed float, and why.

    InputError for a model that is not quantized, or whose weights somebody changed since.
    """
    facts = getattr(model, "overq_summary", None)
    if not isinstance(facts, Summary):
        raise InputError("summary needs a model that overq.quantize or overq.load returned")
    layers: dict[str, Any] = {**dict(model.named_modules()), **factors_of(model)}
    return replace(facts, layers=tuple(_present(report, layers.get(report.name)) for report in facts.layers))


def _present(report: LayerReport, layer: Any) -> LayerReport:
    """The report with the step that the layer has now: a state_dict may have brought another one."""
    if isinstance(layer, Factor):
        return report
    if not isinstance(layer, Quantized):
        raise InputError(f"layer {report.name!r} was quantized, but was replaced since: it is a {type(layer).__name__} now")
    if not layer.unchanged():
        raise InputError(f"layer {report.name!r}: its weight was changed after it was quantized; quantize the float model anew")
    if report.step == layer.step:
        return report
    return replace(report, step=layer.step, note=_joined(report.note, "step from a state_dict, rates of the former step"))
