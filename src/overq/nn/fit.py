"""One layer: its method, the arrangement of its channels and its step, from what was observed; nothing is changed yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from overq import calib, kernels
from overq.calib import Observed
from overq.methods import Dynamic, Fitted, Method
from overq.nn.dead_zone import THRESHOLDS, WORSE, dead_zone
from overq.nn.equalize import BALANCED, SMOOTH, SMOOTH_EXPONENT, balanced_scales, channel_scales, output_error
from overq.nn.layers import AS_IT_IS, Arrangement, FloatLayer, adds_a_constant, input_groups, kind, suited, weight_of
from overq.nn.quantized import Parts, parts_of
from overq.nn.recipe import GPTQ, LayerRule
from overq.nn.reorder import lane_order, order_for
from overq.nn.report import LayerReport
from overq.nn.shift import mean_of
from overq.nn.spelled import lanes_of
from overq.nn.splits import splits
from overq.nn.weights import weight_rows
from overq.spec import Counts

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of equalization, that "auto" chooses from
Readers = Sequence[tuple[FloatLayer, int]]  # the layers that read one tensor, with their weight bits
ROTATION = 0  # seed of every layer's rotation: layers that read one tensor share what is made of it
ROUNDS = 2  # of choosing an order for a step and a step for the order


@dataclass(frozen=True)
class LayerFit:
    """What becomes of a layer, and what that does to the sample."""

    report: LayerReport
    parts: Parts


@dataclass(frozen=True)
class Found:
    """What was searched for a layer's input: the method with its step, and the arrangement. `notes` say what was done."""

    fitted: Fitted
    arrangement: Arrangement
    notes: tuple[str, ...]
    counts: Counts
    sqnr: float


def fit_layer(name: str, module: FloatLayer, observed: Observed, rule: LayerRule, known: dict[Any, Found] | None = None) -> LayerFit:
    """What the rule asks for: method, arrangement and step; and what they do to the sample. `known` as for `fit_tensor`."""
    return fit_tensor({name: module}, observed, {name: rule}, known)[name]


def fit_tensor(
    readers: Mapping[str, FloatLayer],
    observed: Observed,
    rules: Mapping[str, LayerRule],
    known: dict[Any, Found] | None = None,
    grams: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, LayerFit]:
    """What becomes of the layers that read one tensor, in the order they run: one method, arrangement and step for all.

    rules  by layer, alike but for what `of_input` leaves out
    known  what was found before for this tensor and observation, read and added to; where weights have a part in it, it is not used
    grams  by layer, XᵀX of its inputs, for weights that GPTQ rounds (`nn.grams`)
    """
    first = next(iter(readers))
    rule = rules[first]
    key = (tuple(readers), rule.of_input)
    by_outputs = rule.shift or "auto" in (rule.dead_zone, rule.range_bits) or rule.calibration in calib.WITH_WEIGHT
    weighted = isinstance(rule.equalize, str) or by_outputs
    found = None if known is None or weighted else known.get(key)
    if found is None:
        found = _found([(module, rules[name].weight_bits) for name, module in readers.items()], observed, rule)
        if known is not None and not weighted:
            known[key] = found
    return {
        name: _fit(name, module, found, rules[name], first if len(readers) > 1 else "", (grams or {}).get(name))
        for name, module in readers.items()
    }


def _fit(name: str, module: FloatLayer, found: Found, rule: LayerRule, tensor: str, gram: torch.Tensor | None) -> LayerFit:
    by_gptq = rule.weight_rounding == GPTQ
    notes = [*found.notes, *([] if not by_gptq else ["gptq"] if gram is not None else ["weights to nearest: no kept sample reaches it"])]
    report = LayerReport(
        name=name,
        kind=kind(module).__name__,
        format=lanes[0] if (lanes := lanes_of(found.fitted)) else None,
        weight_bits=rule.weight_bits,
        step=found.fitted.step,
        counts=found.counts,
        sqnr=found.sqnr,
        note=", ".join(notes),
        method=found.fitted.method.describe(),
        tensor=tensor,
        each=method.rule if isinstance(method := found.fitted.method, Dynamic) else "",
    )
    return LayerFit(report, parts_of(module, rule.weight_bits, found.fitted, found.arrangement, gram if by_gptq else None))


def _found(readers: Readers, observed: Observed, rule: LayerRule) -> Found:
    module = readers[0][0]
    method: Method = suited(rule.method, module)  # type: ignore[arg-type]  # a rule turns formats into methods
    notes = []
    if method != rule.method:
        notes.append("one channel a group: plain" if input_groups(module) > 1 else "one channel: plain")
    if observed.largest == 0:
        notes.append("input always zero")
    arrangement, done = _arranged(readers, observed, rule, method)
    notes += done
    if rule.range_bits == "auto" and observed.largest and method.neighbours:
        method = _split(readers, observed, rule, method, arrangement)
    fitted = calibrated(readers, observed, rule, method, arrangement)
    if rule.reorder and observed.largest and method.neighbours and observed.sample.shape[1] > 1:
        fitted, arrangement = _reordered(readers, observed, rule, method, fitted, arrangement)
        notes.append("reordered")
    if rule.dead_zone and observed.largest and observed.sample.shape[1] > 1:
        fitted, arrangement = _with_dead_zone(readers, observed, rule, method, fitted, arrangement)
        notes += [] if arrangement.dead_zone is None else ["dead zone {:.3g} + {:.3g} rms".format(*arrangement.dead_zone.tolist())]
    laid = arrangement.vectors(observed.sample)
    decoded, counts = _decoded(fitted, laid)
    sample = laid if arrangement.dead_zone is None else replace(arrangement, dead_zone=None).vectors(observed.sample)
    whole = sample if arrangement.shift is None else replace(arrangement, shift=None, dead_zone=None).vectors(observed.sample)
    signal = float(np.square(whole).sum())
    noise = float(np.square(decoded - sample).sum())
    sqnr = 10 * np.log10(signal / noise).item() if signal and noise else float("inf")
    return Found(fitted, arrangement, tuple(notes), counts, sqnr)


def _with_dead_zone(
    readers: Readers, observed: Observed, rule: LayerRule, method: Method, fitted: Fitted, arrangement: Arrangement
) -> tuple[Fitted, Arrangement]:
    """The rule's dead zone and the step behind it; for "auto" that of least error of the layers' outputs, perhaps none."""
    sample = arrangement.vectors(observed.sample)
    each = isinstance(method, Dynamic) or method.stepless

    def behind(threshold: float) -> tuple[Fitted, Arrangement]:
        made = replace(arrangement, dead_zone=dead_zone(threshold, sample, each))
        return calibrated(readers, observed, rule, method, made), made

    if rule.dead_zone != "auto":
        return behind(float(rule.dead_zone))
    first = least = _output_error(readers, observed, arrangement, fitted)
    found = fitted, arrangement
    for threshold in THRESHOLDS:
        same_step = _output_error(readers, observed, replace(arrangement, dead_zone=dead_zone(threshold, sample, each)), fitted)
        if same_step == first:
            continue  # it clears what was zero already
        if same_step > WORSE * first:
            break
        trial = behind(threshold)
        if (error := _output_error(readers, observed, trial[1], trial[0])) < least:
            found, least = trial, error
    return found


def calibrated(readers: Readers, observed: Observed, rule: LayerRule, method: Method, arrangement: Arrangement) -> Fitted:
    """The method with the step that the rule's calibration finds for the arranged input.

    Scaled, rotated and shifted inputs, and those relative to their vector's statistic, are known by the sample only: their extremes and
    histogram are the sample's.
    """
    vectors = arrangement.vectors(observed.sample)
    signed = observed.signed or bool(not (arrangement.rotation is None and arrangement.shift is None) and vectors.min() < 0)
    fmt = method.step_format(signed)
    if fmt is None:
        return method.fit(vectors, signed)
    if isinstance(method, Dynamic):
        vectors = method.relative(vectors)
    if replace(arrangement, order=None) == AS_IT_IS and not isinstance(method, Dynamic):
        observed = replace(observed, sample=vectors)
    else:
        observed = Observed()
        observed.add_values(vectors)
        observed.add_sample(vectors, np.arange(len(vectors), dtype=float))
    weight = None
    if rule.calibration in calib.WITH_WEIGHT:
        weight = np.concatenate([weight_rows(arrangement.weight(weight_of(module).float().cpu())) for module, _ in readers])
    return method.fitted(method, signed, calib.get(rule.calibration, weight)(observed, fmt))


def _decoded(fitted: Fitted, sample: np.ndarray) -> tuple[np.ndarray, Counts]:
    """What becomes of channel vectors; a method without a number format of ours is only known by its zeros."""
    if (lanes := lanes_of(fitted)) is not None:
        fmt, step = lanes
        return kernels.get("auto", fmt).overwrite_counted(sample, step, fmt)
    decoded = fitted(sample)
    return decoded, Counts(values=decoded.size, zeros=int((decoded == 0).sum()))


def _split(readers: Readers, observed: Observed, rule: LayerRule, method: Method, arrangement: Arrangement) -> Method:
    """The method with the second digits of least error of the layers' outputs on the sample, each with the step that it gets."""
    signed = observed.signed or not (arrangement.rotation is None and arrangement.shift is None)
    fitted = [calibrated(readers, observed, rule, trial, arrangement) for trial in splits(method, signed)]
    return min(fitted, key=partial(_output_error, readers, observed, arrangement)).method


def _arranged(readers: Readers, observed: Observed, rule: LayerRule, method: Method) -> tuple[Arrangement, list[str]]:
    """Scale, rotation and shift of the input's channels, and what was done; the shift only where outputs then err less on the sample."""
    if not observed.largest or observed.sample.shape[1] == 1:
        return AS_IT_IS, []
    plain = _scaled(readers, observed, rule, method, AS_IT_IS)
    if not rule.shift:
        return plain
    if not all(adds_a_constant(module) for module, _ in readers):
        return plain[0], [*plain[1], "padding or groups: not shifted"]
    shifted = _scaled(readers, observed, rule, method, Arrangement(shift=mean_of(observed.sample)))
    best = min(plain, shifted, key=lambda trial: _error(readers, observed, rule, method, trial[0]))
    return best[0], ["shifted", *best[1]] if best is shifted else best[1]


def _scaled(readers: Readers, observed: Observed, rule: LayerRule, method: Method, base: Arrangement) -> tuple[Arrangement, list[str]]:
    """`base` with the rule's scales and rotation, and what was done."""
    arrangement, notes = base, []
    if rule.equalize:
        exponent, arrangement = _equalized(readers, observed, rule, method, base)
        notes.append(f"equalized {exponent:g}" if rule.equalize != BALANCED else BALANCED)
    if rule.rotate:
        arrangement = replace(arrangement, rotation=torch.tensor(ROTATION))
        notes.append("rotated")
    return arrangement, notes


def _error(readers: Readers, observed: Observed, rule: LayerRule, method: Method, arrangement: Arrangement) -> float:
    """Of the layers' outputs on the sample."""
    return _output_error(readers, observed, arrangement, calibrated(readers, observed, rule, method, arrangement))


def _output_error(readers: Readers, observed: Observed, arrangement: Arrangement, fitted: Fitted) -> float:
    return sum(output_error(weight_of(module), observed.sample, arrangement, fitted, bits) for module, bits in readers)


def _equalized(readers: Readers, observed: Observed, rule: LayerRule, method: Method, base: Arrangement) -> tuple[float, Arrangement]:
    """The rule's exponent and `base` with its scales; for "auto" those of EXPONENTS with the least error of the layers' outputs."""
    vectors = base.vectors(observed.sample)
    if rule.equalize in (SMOOTH, BALANCED):
        rows = np.concatenate([weight_rows(weight_of(module)) for module, _ in readers])
        scale = balanced_scales(vectors, rows) if rule.equalize == BALANCED else channel_scales(vectors, SMOOTH_EXPONENT, rows)
        return SMOOTH_EXPONENT, replace(base, scale=scale)
    exponents = EXPONENTS if isinstance(rule.equalize, str) else (rule.equalize,)
    trials = [(exponent, replace(base, scale=channel_scales(vectors, exponent)) if exponent else base) for exponent in exponents]
    if len(trials) == 1:
        return trials[0]
    return min(trials, key=lambda trial: _error(readers, observed, rule, method, trial[1]))


def _reordered(
    readers: Readers, observed: Observed, rule: LayerRule, method: Method, fitted: Fitted, arrangement: Arrangement
) -> tuple[Fitted, Arrangement]:
    """The method again with an order of lanes that it errs less on, and that order."""
    vectors, fmt = arrangement.vectors(observed.sample), fitted.format
    if fmt is None:
        arrangement = replace(arrangement, order=order_for(vectors, fitted))
        return calibrated(readers, observed, rule, method, arrangement), arrangement
    for _ in range(ROUNDS):
        assert fitted.step is not None  # a format's step
        arrangement = replace(arrangement, order=lane_order(vectors, fitted.step, fmt, arrangement.order))
        fitted = calibrated(readers, observed, rule, method, arrangement)
    return fitted, arrangement
