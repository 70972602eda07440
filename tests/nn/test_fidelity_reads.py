"""Layers whose weights are read without a call stay float, and say so."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import overq
from fidelity import A8, X, net, sqnr
from overq.errors import CalibrationError, InputError

pytestmark = pytest.mark.usefixtures("seeded_quietly")


class Functional(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second, self.how = nn.Linear(16, 16), nn.Linear(16, 16), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x).to(self.second.weight.dtype))  # asking for the dtype is no use of it
        if self.how == "linear":
            return F.linear(x, self.second.weight, self.second.bias)
        if self.how == "matmul":
            return x @ self.second.weight.T
        if self.how == "called and transposed":
            return F.linear(self.second(x), self.second.weight.t())
        if self.how == "addmm":
            return torch.addmm(self.second.bias, x, self.second.weight)
        return self.second(x)


@pytest.mark.parametrize(("how", "reason"), [
    ("linear", "called as a function: its weight is read by linear"),
    ("matmul", "called as a function: its weight is read by T"),
    ("addmm", "called as a function: its weight is read by addmm"),
    ("called and transposed", "not only called: its weight is read by t"),
    ("called", None),
])  # fmt: skip
def test_layers_used_as_functions_stay_float_and_say_so(how: str, reason: str | None) -> None:
    model, x = Functional(how).eval(), torch.randn(64, 16)
    q = overq.quantize(model, x, A8.with_(reorder=True, equalize=0.5))
    assert dict(overq.summary(q).left_float) == ({"second": reason} if reason else {})
    assert sqnr(model(x), q(x)) > 30


class Closure(nn.Module):
    """Calls one layer by an attribute that deepcopy takes along as it is, a function that knows the original."""

    def __init__(self, function: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        second = self.second
        self.then = (lambda x: F.linear(x, second.weight, second.bias)) if function else (lambda x: second(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.then(torch.relu(self.first(x)))


@pytest.mark.parametrize(("function", "reason"), [
    (False, "called through a reference to the original model, e.g. in a closure, that no copy follows"),
    (True, "called as a function: its weight is read by linear"),
])  # fmt: skip
def test_layers_called_out_of_closures_say_so(function: bool, reason: str) -> None:
    model, x = Closure(function).eval(), torch.randn(64, 16)
    q = overq.quantize(model, x, A8)
    assert dict(overq.summary(q).left_float) == {"second": reason}
    assert sqnr(model(x), q(x)) > 30
    with pytest.raises(CalibrationError, match="the samples ran layer 'first' of the given model, not of its copy: `forward` must run"):
        overq.quantize(model, x, A8, forward=lambda m, batch: model(batch))


def test_a_layer_that_no_sample_reaches_says_that_and_only_that() -> None:
    model = Functional("called")
    model.never = nn.Linear(3, 3)
    q = overq.quantize(model, torch.randn(8, 16), A8)
    assert overq.summary(q).left_float == (("never", "the samples never ran this Linear"),)


def test_a_quantized_model_is_not_quantized_again() -> None:
    with pytest.raises(InputError, match="layer '0' is quantized already: quantize the float model"):
        overq.quantize(overq.quantize(net(), X, A8), X, A8)
