"""GPTQ: less output error than rounding to nearest, the same levels where inputs have nothing in common, refusals by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import overq
from overq import Format, LayerRule, Recipe
from overq.errors import FormatError
from overq.methods import Dynamic, OverQ, Uniform
from overq.methods.weights import integers as nearest
from overq.nn.gptq import arranged, integers
from overq.nn.grams import rows_of
from overq.nn.layers import Arrangement


def correlated(rows: int, lanes: int, seed: int = 0) -> torch.Tensor:
    """Inputs that a third as many directions make up, and a little noise."""
    made = torch.Generator().manual_seed(seed)
    hidden, mixing = torch.randn(rows, lanes // 3, generator=made), torch.randn(lanes // 3, lanes, generator=made)
    return hidden @ mixing + 0.1 * torch.randn(rows, lanes, generator=made)


def recipe(rounding: str, bits: int = 4, **more: object) -> Recipe:
    return Recipe(Dynamic(Uniform(8)), bits, first=None, last=None, weight_rounding=rounding, **more)  # type: ignore[arg-type]


def output_error(weight: torch.Tensor, levels: torch.Tensor, scale: torch.Tensor, x: torch.Tensor) -> float:
    return float(((weight - levels * scale[:, None]) @ x.T).square().sum())


@pytest.mark.parametrize("bits", [4, 5, 8])
def test_the_output_errs_less_than_with_nearest_weights_also_on_inputs_it_was_not_made_for(bits: int) -> None:
    weight = torch.randn(24, 200, generator=torch.Generator().manual_seed(3))  # more than a block of inputs
    seen, other = correlated(1200, 200).split((800, 400))
    gptq, plain = integers(weight, bits, seen.T @ seen), nearest(weight, bits)
    assert gptq[0].dtype == torch.int8
    assert int(gptq[0].abs().max()) <= 2 ** (bits - 1) - 1
    assert torch.equal(gptq[1], plain[1])
    for x in (seen, other):
        assert output_error(weight, *gptq, x) < 0.5 * output_error(weight, *plain, x)


def test_inputs_with_nothing_in_common_leave_nearest_levels_and_dead_ones_too() -> None:
    weight = torch.randn(8, 40, generator=torch.Generator().manual_seed(4))
    diagonal = torch.rand(40, generator=torch.Generator().manual_seed(5)) * torch.tensor([1.0] * 30 + [0.0] * 10)
    assert torch.equal(integers(weight, 4, torch.diag(diagonal))[0], nearest(weight, 4)[0])


def test_the_second_moments_of_arranged_inputs_are_those_of_the_inputs_arranged() -> None:
    made = torch.Generator().manual_seed(6)
    conv = nn.Conv2d(8, 4, 3, padding=1, stride=2)
    x = torch.randn(3, 8, 7, 6, generator=made)
    moved = Arrangement(torch.rand(8, generator=made) + 0.5, torch.randperm(8, generator=made), torch.tensor(0))
    rows, after = rows_of(conv, x), rows_of(conv, moved.inputs(x, -3))
    assert torch.allclose(arranged(rows.T @ rows, moved, 8), after.T @ after, rtol=1e-4, atol=1e-3)
    assert torch.allclose(conv(x).flatten(2).transpose(1, 2).flatten(0, 1), rows @ conv.weight.flatten(1).T + conv.bias, atol=1e-5)


@pytest.mark.parametrize(
    "more", [{}, {"rotate": True}, {"equalize": 0.5}, {"reorder": True}], ids=["as it is", "rotated", "equalized", "reordered"]
)
def test_a_quantized_layer_holds_them_whatever_is_done_to_its_inputs(more: dict[str, object]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(36, 24), nn.ReLU(), nn.Linear(24, 5)), correlated(600, 36)
    method = Dynamic(OverQ(8, 4)) if "reorder" in more else Dynamic(Uniform(8))
    errors = {}
    for rounding in ("nearest", "gptq"):
        q = overq.quantize(model, x, recipe(rounding, **more).with_(method=method))
        errors[rounding] = float((q[0](x) - model[0](x)).detach().square().sum())
    assert "gptq" in str(overq.summary(q))
    assert errors["gptq"] < 0.7 * errors["nearest"]


def test_convolutions_with_one_group_have_it_and_others_are_refused_by_name() -> None:
    torch.manual_seed(1)
    x = torch.randn(20, 2, 9, 9).repeat_interleave(3, 1) + 0.1 * torch.randn(20, 6, 9, 9)
    conv = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1))
    error = {r: float((overq.quantize(conv, x, recipe(r))(x) - conv(x)).detach().square().sum()) for r in ("nearest", "gptq")}
    assert error["gptq"] < 0.7 * error["nearest"]
    with pytest.raises(FormatError, match=r"layer '1': gptq rounds weights of Linear, and of Conv2d .* not of Conv2d with 2 groups"):
        overq.quantize(nn.Sequential(conv[0], nn.Conv2d(8, 8, 3, groups=2)), x, recipe("gptq"))


def test_readers_of_one_tensor_may_round_differently_and_samples_are_needed() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(36, 8), nn.Linear(36, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + self.b(x)

    torch.manual_seed(2)
    model, x = Two(), correlated(300, 36)
    rule = LayerRule(Dynamic(Uniform(8)), 4)
    q = overq.quantize(model, x, recipe("gptq", overrides=(("a", rule),)))
    assert torch.equal(q.a.weight_integers, nearest(model.a.weight.detach(), 4)[0])
    assert not torch.equal(q.b.weight_integers, nearest(model.b.weight.detach(), 4)[0])
    assert q.a.shared is q.b.shared is not None


@pytest.mark.parametrize(("made", "message"), [
    (lambda: LayerRule(weight_rounding="best"), "weight_rounding must be nearest or gptq, not 'best'"),
    (lambda: Recipe(Format(4), weight_rounding="gptq", sequential=True), "does not go with sequential"),
], ids=["unknown", "sequential"])  # fmt: skip
def test_senseless_recipes_are_refused(made: object, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        made()  # type: ignore[operator]


def test_a_method_with_weights_of_its_own_is_refused() -> None:
    own = Recipe(overq.methods.METHODS["ocs_weights"](8), 8, first=None, last=None, weight_rounding="gptq")
    with pytest.raises(FormatError, match="layer '0': OCS weights A8.* has a rounding of weights of its own"):
        overq.quantize(nn.Sequential(nn.Linear(8, 4)), torch.randn(30, 8), own)


def test_a_recipe_with_it_goes_through_json() -> None:
    made = recipe("gptq", overrides=(("x", LayerRule(weight_rounding="gptq")),))
    assert Recipe.from_json(made.to_json()) == made
