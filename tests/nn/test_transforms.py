"""Recipes with reordering, equalization and bias correction: the float function stays, files keep every bit, senseless ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import overq
from overq import Format, LayerRule, Recipe
from overq.errors import CalibrationError, FormatError, ModelFileError
from overq.nn import Observations, Quantized, bias, observe
from overq.nn.bias import observe_outputs
from overq.nn.layers import Arrangement

ALL = Recipe(Format(3, 2), first=None, last=None, reorder=True, equalize=0.5, bias_correction=True)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(6, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 12, 3, groups=2), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=12), nn.Flatten(), nn.Linear(12 * 16, 4),
    ).eval()  # fmt: skip


X = torch.randn(48, 6, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 0.3, 1, 1, 3, 9]).view(1, 6, 1, 1)


@pytest.mark.parametrize(("layer", "groups"), [(nn.Conv1d, 1), (nn.Conv1d, 3), (nn.Conv2d, 1), (nn.Conv2d, 3), (nn.Linear, 1)])
def test_an_arranged_layer_computes_the_float_layer_s_function(layer: type, groups: int) -> None:
    """32 bits and no clipping are out of reach, so: the arranged input through the arranged weights, in float64."""
    torch.manual_seed(0)
    module = nn.Linear(12, 6) if layer is nn.Linear else layer(12, 6, 3, groups=groups)
    shape = {nn.Conv1d: (4, 12, 9), nn.Conv2d: (4, 12, 5, 5), nn.Linear: (4, 2, 12)}[layer]
    x = torch.rand(shape)
    recipe = Recipe(Format(8, 4), first=None, last=None, reorder=True, equalize=0.7)
    quantized = overq.quantize(module, x, recipe)
    wanted = module(x)
    assert quantized.lane_order is not None
    assert quantized.input_scale is not None
    float_weight = Arrangement(quantized.input_scale, quantized.lane_order).weight(module.weight)
    quantized.weight.data, quantized.quantize_input = float_weight, quantized.arranged
    assert torch.allclose(quantized(x), wanted, rtol=0, atol=2e-6)


def test_save_and_load_keep_every_bit(tmp_path: Path) -> None:
    quantized = overq.quantize(network(), X, ALL)
    overq.save(quantized, tmp_path / "a.safetensors")
    loaded = overq.load(tmp_path / "a.safetensors", network())
    assert torch.equal(loaded(X), quantized(X))
    assert loaded.overq_recipe == ALL
    assert overq.summary(loaded) == overq.summary(quantized)
    assert loaded[0].bias is not None  # correction gave it one
    assert loaded[3].lane_order is not None
    assert loaded[5].lane_order is None  # one channel a group has no neighbours


@pytest.mark.parametrize(("name", "bad", "message"), [
    ("lane_order", torch.zeros(6, dtype=torch.int64), "'0.lane_order' is not a permutation of 6 lanes"),
    ("input_scale", torch.zeros(6), "'0.input_scale' is not 6 positive numbers"),
])  # fmt: skip
def test_a_stored_arrangement_that_makes_no_sense_is_refused(tmp_path: Path, name: str, bad: torch.Tensor, message: str) -> None:
    quantized = overq.quantize(network(), X, ALL)
    setattr(quantized[0], name, bad)
    overq.save(quantized, tmp_path / "a.safetensors")
    with pytest.raises(ModelFileError, match=message):
        overq.load(tmp_path / "a.safetensors", network())


def test_recipes_carry_the_transforms_through_json() -> None:
    recipe = ALL.with_(overrides=(("a", LayerRule(reorder=True, equalize=1)),))
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert ALL.rule("x").reorder
    assert ALL.rule("x").equalize == 0.5
    assert Recipe() == Recipe(reorder=False, equalize=0, bias_correction=False)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Recipe(reorder=1), "reorder must be True or False, not 1"),
    (lambda: Recipe(equalize=1.5), r'equalize must be an exponent from 0 \(off\) to 1, "auto", "smooth" or "balanced", not 1\.5'),
    (lambda: Recipe(equalize="yes"), r'equalize must be an exponent from 0 \(off\) to 1, "auto", "smooth" or "balanced", not \'yes\''),
    (lambda: Recipe(bias_correction="yes"), "bias_correction must be True or False, not 'yes'"),
])  # fmt: skip
def test_senseless_transforms_are_refused(make, message: str) -> None:
    with pytest.raises(FormatError, match=f"^{message}"):
        make()


def test_the_summary_says_what_was_done() -> None:
    notes = [report.note for report in overq.summary(overq.quantize(network(), X, ALL))]
    assert notes[0] == "equalized 0.5, reordered, bias corrected"
    assert notes[2] == "one channel a group: plain, bias corrected"


def test_bias_correction_gives_every_layer_the_float_layer_s_mean_and_spread() -> None:
    model = network()
    quantized = overq.quantize(model, X, ALL)
    wanted, got = (observe_outputs(net, X).moments for net in (model, quantized))
    for name, target in wanted.items():
        assert torch.allclose(got[name].mean, target.mean, rtol=0, atol=1e-4 * target.std.max().item())
        assert torch.allclose(got[name].std, target.std, rtol=1e-4)
    plain = overq.quantize(model, X, ALL.with_(bias_correction=False))
    assert (plain(X) - model(X)).mean(0).abs().max() > 100 * (quantized(X) - model(X)).mean(0).abs().max()


def test_a_layer_that_runs_twice_is_corrected_for_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.relu(self.layer(x)))

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(200, 6)
    rule = Recipe(Format.plain(4), 4, first=None, last=None, bias_correction=True)
    errors = []
    for recipe in (rule, rule.with_(bias_correction=False)):
        wanted, got = (observe_outputs(net, [x]).moments["layer"] for net in (model, overq.quantize(model, [x], recipe)))
        assert got.calls == 2
        errors.append((got.mean - wanted.mean).abs().max().item())
    assert errors[0] < 0.5 * errors[1], "its own correction changes its second input, so a rest stays"


def test_channels_that_do_not_move_keep_their_scale() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].weight.data[1] = 0
    x = torch.randn(50, 4)
    rule = Recipe(Format.plain(4), 4, first=None, last=None, bias_correction=True)
    quantized = overq.quantize(model, x, rule)
    assert quantized[0].weight_scale[1] == 1
    assert torch.allclose(quantized(x)[:, 1], model[0].bias[1].expand(50))


def test_bias_correction_runs_samples_that_the_observation_kept() -> None:
    seen = observe(network(), X)
    by_samples = overq.quantize(network(), X, ALL)
    for samples, known in ((X, seen), (seen, None), (iter([X]), None)):
        quantized = overq.quantize(network(), samples, ALL, seen=known)
        assert isinstance(quantized[0], Quantized)
        assert torch.equal(quantized(X), by_samples(X))
    with pytest.raises(CalibrationError, match="^bias correction runs samples, and these observations were made without any: give some$"):
        overq.quantize(network(), Observations(seen.layers), ALL)


def test_automatic_equalization_takes_the_exponent_with_the_least_output_error() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 8)
    x = torch.relu(torch.randn(400, 16)) * torch.logspace(-1.5, 1, 16)
    model = nn.Sequential(layer)
    recipe = Recipe(Format.plain(3), first=None, last=None)

    def error(equalize: float | str) -> float:
        with torch.no_grad():
            return float((overq.quantize(model, x, recipe.with_(equalize=equalize))(x) - model(x)).square().sum())

    errors = {exponent: error(exponent) for exponent in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert min(errors, key=errors.__getitem__) > 0, "a case where equalizing pays"
    assert error("auto") == pytest.approx(min(errors.values()), rel=1e-5)


def test_the_float_network_s_outputs_are_found_once_for_all_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = network(), bias._moments
    runs: list[nn.Module] = []
    monkeypatch.setattr(bias, "_moments", lambda model, chosen: (runs.append(model), found(model, chosen))[1])
    seen = observe(model, X)
    states = [overq.quantize(model, seen, ALL.with_(weight_bits=bits)).state_dict() for bits in (8, 6, 8)]
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[2].values(), strict=True))
    assert runs == [model]
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert observe_outputs(model, seen).moments["0"].std.allclose(observe_outputs(model, X).moments["0"].std)


def test_smooth_divides_by_both_ranges_as_smoothquant_does() -> None:
    """s_j = max|x_j|^0.5 / max|w_j|^0.5, up to a factor that all channels share; the function stays."""
    torch.manual_seed(0)
    x = torch.tensor([1.0, 4.0, 16.0, 64.0]) * torch.randint(-1, 2, (400, 4)).float()
    layer = nn.Sequential(nn.Linear(4, 3, bias=False))
    layer[0].weight.data = torch.tensor([[1.0, 1.0, 1.0, 4.0]] * 3)
    quantized = overq.quantize(layer, x, Recipe(Format.plain(8), first=None, last=None, equalize="smooth"))
    scale = quantized[0].input_scale
    assert torch.allclose(scale / scale[0], torch.tensor([1.0, 2.0, 4.0, 4.0]))
    assert torch.allclose(quantized(x), layer(x), atol=1.5)
