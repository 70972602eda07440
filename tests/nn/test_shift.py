"""Shifted inputs: the layer's function stays, errors get smaller where vectors have much in common, files keep them, others refuse them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import overq
from overq import Format, LayerRule, Recipe
from overq.errors import FormatError, InputError, ModelFileError
from overq.integer import integer_network
from overq.kernels import get
from overq.methods import Dynamic, OverQ, Uniform
from overq.nn import observe
from overq.nn.cost import cost_of
from overq.nn.measure import count_lanes
from overq.nn.shift import mean_of, shifts

METHODS = {"overq": Dynamic(OverQ(4, 8, policy="largest"), "rms"), "plain": Dynamic(Uniform(4)), "static": Uniform(4)}
SHIFTED = Recipe(METHODS["overq"], first=None, last=None, shift=True)


def alike(*shape: int, seed: int = 0) -> torch.Tensor:
    """Vectors with one mean, but for the first of each row of them, which is of another kind."""
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=made) + 3 * torch.randn(shape[-1], generator=torch.Generator().manual_seed(9))
    x[..., 0, :] = 0.1 * torch.randn(shape[-1], generator=made)
    return x


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


X = alike(40, 6, 24)


def test_a_vector_is_shifted_where_it_is_nearer_to_the_mean_than_to_zero() -> None:
    mean, x = torch.tensor([2.0, 0.0]), torch.tensor([[1.1, 9.0], [0.9, 9.0], [-5.0, 0.0], [2.0, 0.0]])
    assert shifts(x, mean, -1).tolist() == [[2, 0], [0, 0], [0, 0], [2, 0]]
    assert shifts(x.T.reshape(1, 2, 4), mean, -2).tolist() == [shifts(x, mean, -1).T.tolist()]


def test_the_mean_is_of_the_vectors_that_will_be_shifted() -> None:
    sample = torch.cat([torch.full((90, 3), 4.0), torch.full((10, 3), -30.0)]).numpy()
    assert mean_of(sample).tolist() == [4, 4, 4]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("more", [{}, {"equalize": "balanced"}, {"rotate": True}], ids=lambda more: "".join(more) or "alone")
def test_it_lowers_the_error_of_vectors_that_have_much_in_common(name: str, more: dict[str, object]) -> None:
    model = network()
    recipe = SHIFTED.with_(method=METHODS[name], **more)
    errors = [float((overq.quantize(model, X, r)[0](X) - model[0](X)).detach().square().sum()) for r in (recipe.with_(shift=False), recipe)]
    assert errors[1] < 0.5 * errors[0]


def test_the_layer_s_input_is_what_is_left_plus_what_was_taken_away() -> None:
    q = overq.quantize(network(), X, SHIFTED.with_(equalize="balanced"))
    layer = q[0]
    away = shifts(X, layer.input_shift, -1)
    assert 0 < int((away[..., 0] != 0).sum()) < away[..., 0].numel()
    wanted = layer.fitted((X - away) / layer.input_scale) + away / layer.input_scale
    assert torch.allclose(layer.quantize_input(X), wanted, atol=1e-6)
    with count_lanes(q) as counts:
        q(X)
    fmt, step = layer.lanes
    assert counts["0"] == get("array").overwrite_counted((X - away) / layer.input_scale, step, fmt, -1)[1]
    assert "shifted, balanced" in str(overq.summary(q))
    assert cost_of(q, observe(network(), X)).metadata_bits > 1 + 16 / 24


def test_it_stays_away_where_it_does_not_help() -> None:
    x = torch.randn(40, 6, 24, generator=torch.Generator().manual_seed(5))
    x[:, :, 0] *= 30  # nearest to a mean of noise is no one's gain
    q = overq.quantize(network(), torch.cat([x, -x]), SHIFTED)
    assert q[0].input_shift is None


def test_save_and_load_keep_every_bit_and_damage_is_refused(tmp_path: Path) -> None:
    q = overq.quantize(network(), X, SHIFTED)
    overq.save(q, tmp_path / "a.safetensors")
    loaded = overq.load(tmp_path / "a.safetensors", network())
    assert torch.equal(loaded(X), q(X))
    assert loaded.overq_recipe == q.overq_recipe
    assert loaded.half()[0].input_shift.dtype == torch.float32
    q[0].input_shift = torch.full((24,), torch.inf)
    overq.save(q, tmp_path / "b.safetensors")
    with pytest.raises(ModelFileError, match="'0.input_shift' is not 24 finite numbers"):
        overq.load(tmp_path / "b.safetensors", network())
    with pytest.raises(InputError, match="input_shift"):
        overq.quantize(network(), X, SHIFTED.with_(shift=False)).load_state_dict(loaded.float().state_dict())


def test_convolutions_have_it_unless_they_pad() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(6, 8, 3), nn.Conv2d(8, 8, 3, padding=1))
    x = torch.randn(30, 6, 9, 9) + torch.arange(6.0).reshape(6, 1, 1)
    q = overq.quantize(model, x, SHIFTED.with_(method=METHODS["plain"]))
    assert q[0].input_shift is not None
    assert q[1].input_shift is None
    assert [layer.note for layer in overq.summary(q).layers] == ["shifted", "padding or groups: not shifted"]


def test_readers_of_one_tensor_share_it() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(24, 8), nn.Linear(24, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + self.b(x)

    q = overq.quantize(Two(), X, SHIFTED)
    assert torch.equal(q.a.input_shift, q.b.input_shift)
    assert q.a.shared is q.b.shared is not None


def test_integers_refuse_it_by_name() -> None:
    q = overq.quantize(network(), X, Recipe(Format(4, 4), first=None, last=None, shift=True))
    with pytest.raises(FormatError, match="layer '0': its input is shifted"):
        integer_network(q)


def test_a_recipe_with_it_goes_through_json() -> None:
    made = SHIFTED.with_(equalize="balanced", overrides=(("x", LayerRule(shift=True)),))
    assert Recipe.from_json(made.to_json()) == made
