"""What hangs on a layer, hooks, patches, reparametrized and tied weights, stays with the quantized one or is named."""

from __future__ import annotations

import copy
import pickle
import types
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import overq
from fidelity import A8, X, conv, net, sqnr
from overq import Recipe
from overq.errors import InputError
from overq.methods import METHODS
from overq.nn import Quantized

pytestmark = pytest.mark.usefixtures("seeded_quietly")


def hooked(kind: str) -> nn.Sequential:
    model = net()
    layer = model[0]
    if kind == "forward hook":
        layer.register_forward_hook(lambda m, a, out: out * 2)
    if kind == "forward hook, always called":
        layer.register_forward_hook(lambda m, a, k, out: out + k.get("more", 1), with_kwargs=True, always_call=True)
    if kind == "pre-hook":
        layer.register_forward_pre_hook(lambda m, a: (a[0] + 1,))
    if kind == "pre-hook, keywords":
        layer.register_forward_pre_hook(lambda m, a, k: ((), {"input": a[0].abs()}), with_kwargs=True)
    if kind == "two hooks, prepended":
        layer.register_forward_hook(lambda m, a, out: out + 1)
        layer.register_forward_hook(lambda m, a, out: out * 3, prepend=True)
    if kind == "conv_forward, tiles":
        layer._conv_forward = types.MethodType(lambda self, v, w, b: F.conv2d(F.pad(v, (1, 1, 1, 1), mode="circular"), w, b), layer)
    if kind == "conv_forward, a closure":
        own = layer._conv_forward
        layer._conv_forward = lambda v, w, b: own(v.flip(-1), w, b)
    return model


KEPT = (
    "forward hook", "forward hook, always called", "pre-hook", "pre-hook, keywords", "two hooks, prepended", "conv_forward, tiles",
    "conv_forward, a closure",
)  # fmt: skip


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("recipe", [A8, A8.with_(reorder=True, equalize=0.5, bias_correction=True)], ids=["plain", "arranged"])
def test_hooks_and_patched_convolutions_stay(kind: str, recipe: Recipe) -> None:
    model = hooked(kind)
    q = overq.quantize(model, X, recipe)
    assert overq.summary(q).left_float == ()
    with torch.no_grad():
        assert sqnr(model(X), q(X)) > 33


def patched(kind: str) -> nn.Sequential:
    model = net()
    layer = model[0]
    if kind == "forward":
        layer.forward = lambda v, f=layer.forward: f(v) * 2
    if kind == "forward, a method":
        layer.forward = types.MethodType(lambda self, v: F.conv2d(v, self.weight, self.bias, padding=1) * 2, layer)
    if kind == "standardized weights":
        layer._conv_forward = types.MethodType(lambda self, v, w, b: F.conv2d(v, w / w.std((1, 2, 3), keepdim=True), b, padding=1), layer)
    if kind == "float weights":
        weight = layer.weight
        layer._conv_forward = lambda v, w, b: F.conv2d(v, weight, b, padding=1)
    if kind == "squared input":
        layer._conv_forward = lambda v, w, b: F.conv2d(v * v, w, b, padding=1)
    if kind == "equal learning rates":
        layer.scale = nn.Parameter(layer.weight.detach().clone())
        del layer.weight
        layer.register_forward_pre_hook(lambda m, a: setattr(m, "weight", m.scale * 0.5))
        layer.weight = layer.scale * 0.5
    return model


@pytest.mark.parametrize(("kind", "reason"), [
    ("forward", "patched forward"), ("forward, a method", "patched forward"),
    ("standardized weights", "patched _conv_forward that does more than convolve"),
    ("float weights", "patched _conv_forward that does more than convolve"),
    ("squared input", "patched _conv_forward that does more than convolve"),
    ("equal learning rates", "its weight is no parameter, but computed in a way that overq does not know"),
])  # fmt: skip
def test_what_cannot_be_kept_stays_float_and_says_why(kind: str, reason: str) -> None:
    model = patched(kind)
    q = overq.quantize(model, X, A8)
    assert dict(overq.summary(q).left_float) == {"0": reason}
    with torch.no_grad():
        assert sqnr(model(X), q(X)) > 33


class Scaled(nn.Conv2d):
    """Keeps Conv2d's forward."""

    gain = 3.0

    def describe(self) -> str:
        return f"scaled by {self.gain}"


class Standardized(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, padding=1)


def test_subclasses_keep_class_and_attributes_and_own_forwards_stay_float() -> None:
    layer = Scaled(8, 8, 3, padding=1)
    layer.tag = {"stage": 2}
    q = overq.quantize(net(layer, Standardized(8, 8, 3)), X, A8)
    assert isinstance(q[0], Scaled)
    assert isinstance(q[0], Quantized)
    assert (q[0].describe(), q[0].tag, type(q[0]).__name__) == ("scaled by 3.0", {"stage": 2}, "QuantizedScaled")
    assert q[0].tag is not layer.tag
    assert dict(overq.summary(q).left_float) == {"2": "Standardized has a forward of its own"}
    assert isinstance(pickle.loads(pickle.dumps(q))[0], Scaled)
    assert copy.deepcopy(q)[0].tag == layer.tag


def test_backward_hooks_and_gradients_to_the_input() -> None:
    model, seen = net(), []
    model[0].register_full_backward_hook(lambda m, gi, go: seen.append(go[0].shape))
    model[2].register_full_backward_pre_hook(lambda m, go: seen.append(go[0].shape))
    for recipe in (A8, Recipe(METHODS["sparq"](), first=None, last=None)):
        q = overq.quantize(model, X, recipe)
        seen.clear()
        x = X[:2].clone().requires_grad_()
        q(x).sum().backward()
        assert len(seen) == 2
        assert x.grad.abs().sum() > 0


REPARAMETRIZED = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "l1_unstructured": lambda c: prune.l1_unstructured(c, "weight", 0.5),
    "pruned twice, bias too": lambda c: prune.random_unstructured(
        prune.ln_structured(prune.l1_unstructured(c, "weight", 0.3), "weight", 0.25, 2, 0), "bias", 0.5
    ),
    "new weight_norm": parametrizations.weight_norm,
    "new spectral_norm": parametrizations.spectral_norm,
    "own parametrization": lambda c: parametrize.register_parametrization(c, "weight", Halved()) and c,
    "two parametrizations": lambda c: parametrize.register_parametrization(parametrizations.weight_norm(c), "weight", Halved()) and c,
}


class Halved(nn.Module):
    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return w / 2


@pytest.mark.parametrize("name", REPARAMETRIZED)
@pytest.mark.parametrize("state", ["fresh", "run", "run, then loaded"])
def test_weights_computed_by_hooks_are_those_that_the_model_computes_with(name: str, state: str) -> None:
    trained = net(REPARAMETRIZED[name](conv())).state_dict()
    model = net(REPARAMETRIZED[name](conv()))
    with torch.no_grad():
        if state != "fresh":
            model(X)
        if state == "run, then loaded":
            model.load_state_dict(trained)
    before = copy.deepcopy(model.state_dict())
    q = overq.quantize(model, X, A8)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert overq.summary(q).left_float == ()
    with torch.no_grad():
        assert sqnr(model(X), q(X)) > 33
        assert torch.equal(q(X), q(X))


def test_reparametrized_models_are_saved_and_loaded(tmp_path: Any) -> None:
    model = net(weight_norm(conv()), parametrizations.spectral_norm(conv()))
    q = overq.quantize(model, X, A8)
    overq.save(q, tmp_path / "m.safetensors")
    assert torch.equal(overq.load(tmp_path / "m.safetensors", model)(X), q(X))


class Tied(nn.Module):
    """An embedding and a head with one weight, as language models have; and a framework that ties them again."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(40, 16), nn.Linear(16, 16), nn.Linear(16, 40, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.mix(self.embedding(ids))))


@pytest.mark.parametrize("recipe", [A8, A8.with_(weight_bits=4), A8.with_(reorder=True, equalize=0.5, bias_correction=True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tied_weights_stay_what_they_are_when_tied_again(recipe: Recipe, dtype: torch.dtype) -> None:
    model, ids = Tied().eval(), torch.randint(40, (64, 5))
    q = overq.quantize(model, ids, recipe).to(dtype)
    wanted = q(ids)
    q.tie_weights()
    assert torch.equal(q(ids), wanted)
    assert isinstance(q.head, Quantized)
    assert len(overq.summary(q)) == 2
    with torch.no_grad():
        q.embedding.weight.copy_(torch.randn(40, 16))
    with pytest.raises(InputError, match="cannot be replaced by another one: quantize the float model anew"):
        q.tie_weights()
    assert model.head.weight is model.embedding.weight


def test_two_layers_with_one_weight_are_quantized_each_on_its_own() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)).eval()
    model[2].weight = model[0].weight
    x = torch.randn(64, 16)
    q = overq.quantize(model, x, A8.with_(equalize=0.5))
    assert sqnr(model(x), q(x)) > 30
    assert model[2].weight is model[0].weight
