"""Dead zones: zeros made on purpose pay where they can serve, only cost where they cannot, and are kept or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import overq
from overq import LayerRule, Recipe
from overq.errors import FormatError, InputError, ModelFileError
from overq.exchange import to_onnx
from overq.exchange.packing import save_packed
from overq.integer import integer_network
from overq.methods import NVFP4, Atom, Dynamic, OliVe, OverQ, Uniform
from overq.nn.dead_zone import cleared, dead_zone
from overq.nn.measure import count_lanes

OVERQ = Dynamic(OverQ(3, 4, 3, 0, "largest"), "rms")
AUTO = Recipe(OVERQ, first=None, last=None, dead_zone="auto")


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def spread(seed: int = 0) -> torch.Tensor:
    """Values of one size, few of them small, and outliers."""
    made = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(40, 6, 24, generator=made) - 1
    return torch.where(torch.rand(x.shape, generator=made) < 0.1, 10 * x, x)


X = spread()


def error(recipe: Recipe) -> float:
    model = network()
    q = overq.quantize(model, X, recipe)
    return float((q[0](X) - model[0](X)).detach().square().sum())


def test_values_below_the_bar_of_their_vector_are_zeros() -> None:
    x = torch.tensor([[3.0, -4.0, 0.5], [0.3, 0.0, 0.4]])
    rms = x.square().mean(1).sqrt()
    d = torch.tensor([0.1, 0.5])
    assert cleared(x, d, -1).tolist() == torch.where(x.abs() < 0.1 + 0.5 * rms[:, None], 0.0, x).tolist()
    assert torch.equal(cleared(x.T.reshape(1, 3, 2), d, -2), cleared(x, d, -1).T.reshape(1, 3, 2))
    assert cleared(x, d, -1).tolist()[0] == [3.0, -4.0, 0.0]


def test_its_unit_is_the_rms_of_a_vector_or_of_the_sample() -> None:
    sample = np.array([[3.0, 4.0], [0.0, 5.0]], np.float32)
    assert dead_zone(0.5, sample, each=True).tolist() == [0, 0.5]
    assert dead_zone(0.5, sample, each=False).tolist() == pytest.approx([0.5 * 12.5**0.5, 0])


@pytest.mark.parametrize("method", [OVERQ, OverQ(3, 4, 3, 0, "largest")], ids=["dynamic", "static"])
def test_made_zeros_pay_for_themselves_under_overq(method: object) -> None:
    recipe = AUTO.with_(method=method)
    found, without = error(recipe), error(recipe.with_(dead_zone=0.0))
    assert found < 0.97 * without


def test_it_buys_a_finer_step_and_the_summary_says_so() -> None:
    plain, dead = (overq.quantize(network(), X, AUTO.with_(dead_zone=d)) for d in (0.0, "auto"))
    assert "dead zone 0 + 0." in str(overq.summary(dead))
    assert dead[0].step < plain[0].step
    with count_lanes(plain) as before, count_lanes(dead) as after:
        plain[0](X), dead[0](X)
    assert after["0"].served > before["0"].served


@pytest.mark.parametrize("method", [Dynamic(Uniform(4)), Uniform(4), OliVe(4), NVFP4(), Atom(block=8)], ids=lambda m: m.describe())
def test_others_only_pay(method: object) -> None:
    recipe = AUTO.with_(method=method)
    assert overq.quantize(network(), X, recipe)[0].dead_zone is None or error(recipe) <= error(recipe.with_(dead_zone=0.0))
    assert error(recipe.with_(dead_zone=1.0)) > error(recipe.with_(dead_zone=0.0))


def test_a_fixed_one_is_taken_as_it_is_and_the_error_counts_it() -> None:
    q = overq.quantize(network(), X, AUTO.with_(dead_zone=1, equalize="balanced", shift=True))
    layer = q[0]
    assert layer.dead_zone.tolist() == [0, 1]
    small = layer.laid(X) == 0
    assert 0.5 < float(small.float().mean()) < 0.9
    assert bool((layer.fitted(layer.laid(X))[small] == 0).all())
    assert next(iter(overq.summary(q).layers)).sqnr < 12


def test_groups_have_vectors_of_their_own() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))
    x = torch.randn(20, 4, 3, 3) * torch.tensor([1.0, 1.0, 100.0, 100.0]).reshape(4, 1, 1)
    layer = overq.quantize(model, x, AUTO.with_(method=Dynamic(Uniform(8)), dead_zone=0.5))[0]
    halves = layer.laid(x).unflatten(1, (2, 2))
    assert torch.equal(halves, cleared(x.unflatten(1, (2, 2)), layer.dead_zone, -3))
    assert bool((halves[:, 0] != 0).any())


def test_save_and_load_keep_every_bit_and_damage_is_refused(tmp_path: Path) -> None:
    q = overq.quantize(network(), X, AUTO)
    overq.save(q, tmp_path / "a.safetensors")
    loaded = overq.load(tmp_path / "a.safetensors", network())
    assert torch.equal(loaded(X), q(X))
    assert loaded.overq_recipe == q.overq_recipe
    assert loaded.half()[0].dead_zone.dtype == torch.float32
    q[0].dead_zone = torch.tensor([0.0, -1.0])
    overq.save(q, tmp_path / "b.safetensors")
    with pytest.raises(ModelFileError, match="'0.dead_zone' is not two finite numbers that are not negative"):
        overq.load(tmp_path / "b.safetensors", network())


def test_what_does_not_know_it_refuses_it_by_name(tmp_path: Path) -> None:
    q = overq.quantize(network(), X, AUTO.with_(method=OverQ(4, 8), dead_zone=0.4))
    with pytest.raises(FormatError, match="layer '0': its input has a dead zone"):
        integer_network(q)
    with pytest.raises(InputError, match="layer '0': a dead zone has no ONNX form"):
        to_onnx(q, tmp_path / "a.onnx", X)
    with pytest.raises(InputError, match="layer '0': a packed file cannot say a dead zone"):
        save_packed(q, tmp_path / "a.overq")


@pytest.mark.parametrize("width", [-0.1, 5, True, "wide", float("nan")])
def test_a_senseless_width_is_refused(width: object) -> None:
    with pytest.raises(FormatError, match=r"dead_zone must be a part of the rms from 0 \(off\) to 4, or \"auto\""):
        Recipe(dead_zone=width)  # type: ignore[arg-type]


def test_a_recipe_with_it_goes_through_json() -> None:
    made = AUTO.with_(overrides=(("x", LayerRule(dead_zone=0.3)),))
    assert Recipe.from_json(made.to_json()) == made
