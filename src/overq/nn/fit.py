"""One layer: its format, the arrangement of its channels and its step, from what was observed; and the quantized layer they make."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from overq import calib, kernels
from overq.calib import Observed
from overq.nn.equalize import channel_scales, output_error
from overq.nn.layers import AS_IT_IS, Arrangement, FloatLayer, Quantized, fitted_format, input_groups, kind, quantize_layer
from overq.nn.recipe import LayerRule
from overq.nn.reorder import lane_order
from overq.nn.report import LayerReport
from overq.nn.weights import weight_rows
from overq.spec import Format

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of equalization, that "auto" chooses from
ROUNDS = 2  # of choosing an order for a step and a step for the order


def fit_layer(name: str, module: FloatLayer, observed: Observed, rule: LayerRule) -> tuple[LayerReport, Quantized]:
    """The quantized layer that the rule asks for: format, arrangement and step; and what they do to the sample."""
    wanted = rule.format.with_(signed=observed.signed)
    fmt = fitted_format(wanted, module)
    arrangement = AS_IT_IS
    notes = []
    if fmt != wanted:
        notes.append("one channel a group: plain" if input_groups(module) > 1 else "one channel: plain")
    if observed.largest == 0:
        notes.append("input always zero")
    elif rule.equalize and observed.sample.shape[1] > 1:
        exponent, arrangement = _equalized(module, observed, rule, fmt)
        notes.append(f"equalized {exponent:g}")
    step = calibrated(module, observed, rule, fmt, arrangement)
    if rule.reorder and fmt.cascade and observed.largest:
        vectors = arrangement.vectors(observed.sample)
        for _ in range(ROUNDS):
            arrangement = replace(arrangement, order=lane_order(vectors, step, fmt, arrangement.order))
            step = calibrated(module, observed, rule, fmt, arrangement)
        notes.append("reordered")
    sample = arrangement.vectors(observed.sample)
    decoded, counts = kernels.get("auto", fmt).overwrite_counted(sample, step, fmt)
    signal = float(np.square(sample).sum())
    noise = float(np.square(decoded - sample).sum())
    report = LayerReport(
        name=name,
        kind=kind(module).__name__,
        format=fmt,
        weight_bits=rule.weight_bits,
        step=step,
        counts=counts,
        sqnr=10 * np.log10(signal / noise).item() if signal and noise else float("inf"),
        note=", ".join(notes),
    )
    return report, quantize_layer(module, rule.weight_bits, step, fmt, arrangement)


def _equalized(module: FloatLayer, observed: Observed, rule: LayerRule, fmt: Format) -> tuple[float, Arrangement]:
    """The rule's exponent and its scales; for "auto" those of EXPONENTS with the least error of the layer's output on the sample."""
    exponents = EXPONENTS if isinstance(rule.equalize, str) else (rule.equalize,)
    trials = [(exponent, Arrangement(channel_scales(observed.sample, exponent)) if exponent else AS_IT_IS) for exponent in exponents]
    if len(trials) == 1:
        return trials[0]

    def error(arrangement: Arrangement) -> float:
        step = calibrated(module, observed, rule, fmt, arrangement)
        return output_error(module.weight, observed.sample, arrangement, step, fmt, rule.weight_bits)

    return min(trials, key=lambda trial: error(trial[1]))


def calibrated(module: FloatLayer, observed: Observed, rule: LayerRule, fmt: Format, arrangement: Arrangement) -> float:
    """The step that the rule's calibration finds for the arranged input.

    Scaled inputs are known by the sample only: their extremes and histogram are the sample's.
    """
    vectors = arrangement.vectors(observed.sample)
    if arrangement.scale is None:
        observed = replace(observed, sample=vectors)
    else:
        observed = Observed()
        observed.add_values(vectors)
        observed.add_sample(vectors, np.arange(len(vectors), dtype=float))
    weight = arrangement.weight(module.weight.detach().float().cpu())
    return calib.get(rule.calibration, weight_rows(weight))(observed, fmt)
