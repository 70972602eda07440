from __future__ import annotations

import torch
from torch import nn

import overq
from overq import Format, Recipe, spec
from overq.kernels import array
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
