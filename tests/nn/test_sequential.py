"""Sequential calibration sees what quantized layers hand on; output-mse reaches the layer's weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from overq import calib
from overq.nn import Recipe, observe, overwrite, quantize, summary
from overq.nn.sequential import observe_sequentially
from overq.nn.weights import weight_rows
from overq.spec import Format


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def test_each_layer_is_observed_behind_the_quantized_ones() -> None:
    model, x = network(), torch.rand(64, 8, generator=torch.Generator().manual_seed(1))
    recipe = Recipe(Format(3, 2), first=None, last=None)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    seen, parallel = observe_sequentially(model, x, recipe), observe(model, x)
    assert list(seen.layers) == list(parallel.layers)
    assert np.array_equal(seen.layers["0"].sample, parallel.layers["0"].sample)  # nothing before it
    quantized = quantize(model, seen, recipe)
    with torch.no_grad():
        second = quantized[1](quantized[0](x))
        third = quantized[3](quantized[2](second))
    assert seen.layers["2"].high == second.max().item()
    assert seen.layers["4"].high == third.max().item()
    assert seen.layers["4"].high != parallel.layers["4"].high
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_output_mse_lowers_the_error_of_the_layers_output() -> None:
    """A linear layer that reads mostly one heavy-tailed channel: there the best input step is not the best output step."""
    x = torch.distributions.StudentT(4.0).sample((4000, 8)).relu()
    x[:, 0] *= 10
    layer = nn.Linear(8, 4, bias=False)
    layer.weight.data[:, 0] *= 0.01
    fmt, seen = Format.plain(4), observe(layer, x).layers[""]
    rows = weight_rows(layer.weight)
    ours, plain = (
        (overwrite(x, calib.get(name, rows)(seen, fmt), fmt) - x).square().matmul(layer.weight.detach().square().T).sum().item()
        for name in ("output-mse", "format-mse")
    )
    assert ours < 0.8 * plain


def test_convolution_rows_hold_a_groups_channels_last() -> None:
    conv = nn.Conv2d(6, 4, 3, groups=2)
    rows = weight_rows(conv.weight)
    assert rows.shape == (4 * 9, 3)
    assert np.array_equal(rows[10], conv.weight.detach()[1, :, 0, 1].numpy())


@pytest.mark.parametrize("name", ["output-mse", "kl", "moving-max", "std:3", "aciq-laplace"])
def test_recipes_take_every_method_by_name(name: str) -> None:
    quantized = quantize(network(), torch.rand(32, 8), Recipe(Format(4, 2), calibration=name, first=None, last=None))
    assert all(report.step > 0 for report in summary(quantized))
