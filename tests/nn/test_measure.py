from __future__ import annotations

import pytest
import torch
from torch import nn

import overq
from overq import Format, Recipe, spec
from overq.kernels import array, scale
from overq.methods import Dynamic, OverQ
from overq.nn import count_lanes


def test_counts_are_those_of_the_definition_call_by_call() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1, groups=2), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(2, 3, 5, 5)
    quantized = overq.quantize(
        model,
        x,
        Recipe(Format(2, 2), calibration="percentile:80", first=None, last=None, overrides=(("4", overq.LayerRule(Format.plain(4))),)),
    )
    with count_lanes(quantized) as counts:
        quantized(x)
        quantized(x)
    assert list(counts) == ["0", "2"]  # a plain layer overwrites nothing
    layer = quantized[2]
    inputs = torch.relu(quantized[0](x)).unflatten(1, (2, 4)).movedim(2, -1).reshape(-1, 4)
    expected = spec.Counts()
    for row in array.fixed(inputs, layer.step, layer.format).tolist():
        expected += spec.count(row, layer.format)
    assert counts["2"] == expected + expected
    assert expected.served > 0
    quantized(x)
    assert counts["2"].values == 2 * inputs.numel()  # nothing is counted after the block


DYNAMIC = [(by, group) for by in ("max", "rms") for group in (None, 6, 5)]


def by_hand(vectors, method, alpha):
    """Counts and decoded values, each vector or group by the definition."""
    fmt, counts, decoded = method.of.format(False), spec.Counts(), []
    for vector in vectors.unflatten(1, (2, 12)).movedim(2, -1).reshape(-1, 12).numpy():
        for start in range(0, 12, method.group or 12):
            part = vector[None, start : start + (method.group or 12)]
            step = float(scale.steps(part, scale.Dynamic(alpha, method.by), fmt).item())
            (row,) = array.fixed(part, step, fmt).tolist()
            counts += spec.count(row, fmt)
            decoded += [value * step / 2**fmt.fraction_bits for value in spec.effective(spec.encode(row, fmt), fmt)]
    return counts, torch.tensor(decoded, dtype=torch.float32)


@pytest.mark.parametrize(("by", "group"), DYNAMIC, ids=[f"{by}-{group or 'vector'}" for by, group in DYNAMIC])
def test_layers_with_a_step_for_each_vector_are_counted_too(by, group, tmp_path) -> None:
    """In the summary on the calibration sample, by `count_lanes` on what the model runs; both as the definition counts them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 24, 1), nn.ReLU(), nn.Conv2d(24, 4, 1, groups=2))
    x = torch.randn(2, 3, 5, 5)
    method = Dynamic(OverQ(3, 4, policy="largest"), by, group)
    quantized = overq.quantize(model, x, Recipe(method, calibration="percentile:60", first=None, last=None))
    with count_lanes(quantized) as counts:
        quantized(x)
    layer, inputs = quantized[2], torch.relu(quantized[0](x))
    expected, decoded = by_hand(inputs, method, layer.step)
    assert counts["2"] == expected
    assert expected.served > 0
    assert torch.equal(layer.quantize_input(inputs).unflatten(1, (2, 12)).movedim(2, -1).flatten(), decoded)
    report = overq.summary(quantized).layers[1]
    assert report.counts == by_hand(torch.relu(model[0](x)).detach(), method, layer.step)[0]  # all vectors are in the sample
    assert report.mode == f"{report.format.label}, {method.rule}"
    assert f"{report.coverage:.3f}" in str(overq.summary(quantized))
    overq.save(quantized, tmp_path / "m.safetensors")
    assert overq.summary(overq.load(tmp_path / "m.safetensors", model)).layers == overq.summary(quantized).layers
