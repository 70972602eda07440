"""Products spelled as functions: with parameters they are layers, of two activations they are quantized where the recipe says so."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import overq
from overq import Format, LayerRule, Recipe, quantize
from overq.errors import CalibrationError, FormatError, InputError
from overq.nn import observe, summary
from overq.nn.attention import attention
from overq.nn.convert_sites import factors_of
from overq.nn.op import overwrite

OVERQ = Format(4, 4, 3, 3)
RECIPE = Recipe(OVERQ, first=None, last=None)
BOTH = RECIPE.with_(products=LayerRule(Format(4, 4, 3, 3)))
N, T, E = 3, 6, 8


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Spelled(nn.Module):
    """A product with a parameter, in many spellings of the same."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(rand(10, E))
        self.turned = nn.Parameter(rand(10, E).T.contiguous())

    def forward(self, x):
        return {
            "linear": lambda: F.linear(x, self.weight),
            "@": lambda: x @ self.weight.T,
            "matmul": lambda: torch.matmul(x, self.turned),
            "addmm": lambda: torch.addmm(x.new_zeros(10), x.flatten(0, 1), self.turned).view(-1, T, 10),
            "einsum": lambda: torch.einsum("btk,ok->bto", x, self.weight),
            "first": lambda: (self.weight @ x.transpose(1, 2)).transpose(1, 2),
        }[self.how]()


@pytest.mark.parametrize("how", ["linear", "@", "matmul", "addmm", "einsum", "first"])
def test_a_product_with_a_parameter_is_the_layer_that_it_spells(how, tmp_path) -> None:
    x = rand(N, T, E, seed=1)
    model = Spelled(how)
    q = quantize(model, [x], RECIPE)
    layer = nn.Linear(E, 10, bias=False)
    layer.weight = nn.Parameter(rand(10, E))
    as_layer = quantize(nn.Sequential(layer), [x], RECIPE)
    assert summary(q).quantized_share == 1
    (report,) = summary(q)
    assert (report.kind, report.macs) == ("function", 2 * T * E * 10)  # of the two samples that are counted
    assert report.step == pytest.approx(summary(as_layer).layers[0].step, rel=0.02)
    weight = as_layer[0].weight
    assert torch.equal(q.weight if "weight" in report.name else q.turned.T, weight)
    wanted = F.linear(overwrite(x, report.step, report.format, -1), weight)
    torch.testing.assert_close(q(x), wanted, rtol=1e-5, atol=1e-5)
    overq.save(q, tmp_path / "m.safetensors")
    for other in (copy.deepcopy(q), pickle.loads(pickle.dumps(q)), overq.load(tmp_path / "m.safetensors", model), q.train()):
        assert torch.equal(other(x), q(x))


class Multiplied(nn.Module):
    """Many products of activations in one module, spelled by two functions."""

    def forward(self, x):
        y = x
        for _ in range(11):
            y = (y @ x.transpose(1, 2)) @ x
        return torch.einsum("btk,bsk->bts", y, x)


def test_the_work_of_a_modules_products_is_counted_once() -> None:
    q = quantize(nn.Sequential(nn.Linear(E, E), Multiplied()), [rand(N, T, E, seed=1) / 8], BOTH)
    assert sum(report.macs for report in summary(q)) == 2 * (T * E * E + 23 * T * T * E)  # of the two samples that are counted
    assert summary(q).quantized_share == 1


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.gate = nn.Parameter(rand(4, 16, E)), nn.Parameter(rand(4, E, 16)), nn.Parameter(rand(4, E))

    def forward(self, x):
        x = x.flatten(0, 1)
        scores, expert = F.linear(x, self.gate).softmax(-1).max(-1)
        y = torch.zeros_like(x)
        for i in expert.unique():
            rows = torch.where(expert == i)[0]
            y[rows] = F.linear(F.linear(x[rows], self.inner[i]).relu(), self.outer[i]) * scores[rows, None]
        return y


def test_experts_in_one_tensor_are_quantized_each_output_by_itself() -> None:
    x = rand(N, T, E, seed=1)
    q = quantize(Experts(), [x], RECIPE)
    assert [(r.name, r.format.signed) for r in summary(q)] == [("gate", True), ("inner", True), ("outer", False)]
    assert summary(q).quantized_share == 1
    levels = q.inner / q.inner.abs().amax(-1, keepdim=True) * 127
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    other = rand(2, 5, E, seed=3)  # other experts, other numbers of calls
    assert torch.isfinite(q(other)).all()
    skipped = quantize(Experts(), [x], RECIPE.with_(overrides=(("outer", LayerRule(skip=True)),)))
    assert torch.equal(skipped.outer, Experts().outer)
    assert ("outer", "a rule of the recipe skips it") in summary(skipped).left_float


class Attends(nn.Module):
    """Grouped-query attention; `how` it is spelled."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, 4), nn.Linear(E, 4)

    def forward(self, x, mask=None):
        q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.how == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        else:
            k, v = (t.repeat_interleave(2, 1) for t in (k, v))
            causal = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1) if mask is None else mask
            y = torch.softmax(q @ k.transpose(-2, -1) / 2 + causal, -1) @ v
        return y.transpose(1, 2).flatten(2)


def by_hand(model, x):
    """Attention with each factor overwritten: query, key and value along a token's vector, probabilities along the keys."""
    factors = factors_of(model)
    names = ["attention0.query", "attention0.key", "attention0.value", "attention0.weights"]
    if model.how != "sdpa":
        names = ["matmul0.first", "matmul0.second", "matmul1.second", "matmul1.first"]

    def made(i, t):
        fitted = factors[names[i]].fitted
        return overwrite(t, fitted.step, fitted.format, -1)

    q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (model.q, model.k, model.v))
    k, v = (t.repeat_interleave(2, 1) for t in (k, v))
    causal = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1)
    chances = torch.softmax(made(0, q) @ made(1, k).transpose(-2, -1) / 2 + causal, -1)
    return (made(3, chances) @ made(2, v)).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("how", ["sdpa", "matmul"])
def test_both_factors_of_attention_s_products_are_quantized(how, tmp_path) -> None:
    torch.manual_seed(0)
    model, x = Attends(how).eval(), rand(N, T, E, seed=1)
    q = quantize(model, [x], BOTH)
    assert summary(q).quantized_share == 1
    assert len(factors_of(q)) == 4
    torch.testing.assert_close(q(x), by_hand(q, x), rtol=1e-4, atol=1e-5)
    overq.save(q, tmp_path / "m.safetensors")
    for other in (copy.deepcopy(q), pickle.loads(pickle.dumps(q)), overq.load(tmp_path / "m.safetensors", model), q.train()):
        assert torch.equal(other(x), q(x))
    q.register_forward_pre_hook(lambda module, args: (args[0] * 2, *args[1:]))
    torch.testing.assert_close(q(x), by_hand(q, 2 * x), rtol=1e-4, atol=1e-5)


def test_products_stay_float_and_are_named_unless_the_recipe_has_a_rule() -> None:
    model, x = Attends("sdpa").eval(), rand(N, T, E, seed=1)
    q = quantize(model, [x], RECIPE)
    assert not factors_of(q)
    assert "in float: scaled_dot_product_attention" in str(summary(q))
    with pytest.raises(CalibrationError, match=r"products=True"):
        quantize(model, observe(model, [x]), BOTH)
    half = quantize(model, [x], BOTH.with_(overrides=(("*.weights", LayerRule(skip=True)),)))
    assert len(factors_of(half)) == 3
    assert "in float: scaled_dot_product_attention" in str(summary(half))
    with pytest.raises(FormatError, match=r"'attention0\.query' is multiplied with activations"):
        quantize(model, [x], BOTH.with_(products=LayerRule(OVERQ, calibration="output-mse")))
    assert Recipe.from_json(BOTH.to_json()) == BOTH


def test_a_product_that_calibration_did_not_see_is_refused() -> None:
    class Sometimes(Attends):
        def forward(self, x, more=False):
            y = super().forward(x)
            return y @ y.transpose(1, 2) if more else y

    q = quantize(Sometimes("sdpa").eval(), [rand(N, T, E)], BOTH)
    with pytest.raises(InputError, match=r"^a QuantizedSometimes multiplies in a way that calibration did not see: its 'matmul0'"):
        q(rand(N, T, E), more=True)


def test_parameters_that_are_read_otherwise_stay_float_and_say_so() -> None:
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.lin = nn.Parameter(rand(E, E)), nn.Linear(E, E)

        def forward(self, x):
            return F.linear(self.lin(x), self.weight) + self.weight.square().sum()

    q = quantize(Tied(), [rand(N, T, E)], RECIPE)
    assert torch.equal(q.weight, Tied().weight)
    assert ("weight", "square reads it, too") in summary(q).left_float
    assert summary(q).quantized_share == 0.5


@pytest.mark.parametrize("mask", ["none", "bool", "added"])
def test_attention_in_two_products_is_pytorch_s(mask) -> None:
    q, k, v = rand(2, 4, 5, 8), rand(2, 2, 7, 8, seed=1), rand(2, 2, 7, 6, seed=2)
    given = {"none": None, "bool": rand(5, 7) > -0.5, "added": rand(2, 1, 5, 7)}[mask]
    for scale in (None, 0.3):
        for causal in (False, True) if mask == "none" else (False,):
            call = {"attn_mask": given, "is_causal": causal, "scale": scale, "enable_gqa": True}
            torch.testing.assert_close(attention(q, k, v, **call), F.scaled_dot_product_attention(q, k, v, **call), rtol=1e-5, atol=1e-5)
