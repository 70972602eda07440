"""A quantized copy computes what its summary says, on every path of PyTorch and with everything that hangs on a layer."""

from __future__ import annotations

import copy
import pickle
import types
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import overq
from overq import Format, Recipe
from overq.errors import CalibrationError, FidelityError, InputError, MostlyFloatWarning
from overq.methods import METHODS
from overq.nn import Quantized

A8 = Recipe(Format.plain(8), first=None, last=None)
A2 = Recipe(Format.plain(2), first=None, last=None)
OVERQ = Recipe(Format(3, 4), first=None, last=None)
X = torch.randn(32, 8, 9, 9, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(16, 7, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=MostlyFloatWarning)
    warnings.filterwarnings("ignore", message=".*nested tensors is in prototype")


def conv(channels: int = 8) -> nn.Conv2d:
    return nn.Conv2d(8, channels, 3, padding=1)


def net(first: nn.Module | None = None, last: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(first or conv(), nn.ReLU(), last or conv()).eval()


def sqnr(wanted: torch.Tensor, got: torch.Tensor) -> float:
    wanted, got = wanted.detach(), got.detach()
    noise = (got.double() - wanted.double()).square().sum()
    return float(10 * torch.log10(wanted.double().square().sum() / noise)) if noise else float("inf")


def ran(model: nn.Module, call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What the call gives, and which quantizers it ran; told without hooks, which would switch fused paths off."""
    names: list[str] = []
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, Quantized)]
    for name, layer in layers:
        layer.quantize_input = lambda x, name=name, layer=layer: (names.append(name), type(layer).quantize_input(layer, x))[1]
    try:
        return call(), names
    finally:
        for _, layer in layers:
            del layer.quantize_input


# Every path of PyTorch ------------------------------------------------------------------------------


def encoder(**options: Any) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(32), enable_nested_tensor=not options).eval()


MODES = {
    "gradients": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"activation": "gelu"}, {"activation": nn.SiLU()}], ids=str)
def test_the_fused_encoder_runs_its_quantizers_in_every_mode(options: dict, mode: str) -> None:
    model = encoder(**options)
    q = overq.quantize(model, TOKENS, A2)
    expected = [r.name for r in overq.summary(q)]
    with torch.enable_grad():
        wanted = q(TOKENS)
    with MODES[mode]():
        got, names = ran(q, lambda: q(TOKENS))
    assert sorted(names) == sorted(expected)
    assert sqnr(model(TOKENS), got) < 25, "two bits must hurt"
    assert mode == "autocast" or torch.allclose(got, wanted, atol=1e-5)


def test_one_encoder_layer_alone_a_copy_and_a_reloaded_one_run_their_quantizers() -> None:
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    q = overq.quantize(model, TOKENS, A2)
    again = overq.quantize(model, TOKENS, A2)
    again.load_state_dict(q.state_dict())
    for each in (q, copy.deepcopy(q), again, q.train().eval()):
        with torch.no_grad():
            assert len(ran(each, lambda each=each: each(TOKENS))[1]) == 6


class Masked(nn.Module):
    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2, norm=nn.LayerNorm(32) if norm else None
        )
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x, src_key_padding_mask=mask))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("aligned", [True, False])
def test_padding_masks_give_the_float_model_s_padded_positions(norm: bool, aligned: bool) -> None:
    """PyTorch makes nested tensors of left-aligned ones without gradients: padded positions come out as zeros."""
    model, mask = Masked(norm).eval(), torch.arange(7).expand(16, 7) >= torch.arange(16).remainder(4)[:, None] + 4
    mask = mask if aligned else mask.flip(1)
    q = overq.quantize(model, [{"x": TOKENS, "mask": mask}], A8)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            wanted, (got, names) = model(TOKENS, mask), ran(q, lambda: q(TOKENS, mask))
        assert sqnr(wanted, got) > 30
        assert len(names) == 13
    assert torch.equal(q(TOKENS, mask), q(TOKENS, mask.float().masked_fill(mask, -torch.inf))), "a float mask says the same"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.attention = nn.Linear(32, 32), nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mix(x)
        return self.attention(x, x, x, need_weights=False)[0]


def test_attention_s_projections_are_called_as_layers() -> None:
    q = overq.quantize(Attention().eval(), TOKENS, A2)
    assert not overq.summary(q).left_float
    with torch.no_grad():
        no_grad, names = ran(q, lambda: q(TOKENS))
    assert names == ["mix", *(f"attention.{name}" for name in ("query", "key", "value", "out_proj"))]
    assert torch.allclose(no_grad, q(TOKENS), atol=1e-5)


class Nests(nn.Module):
    """Cuts its ten tokens into sequences of different length."""

    def __init__(self, layout: torch.layout) -> None:
        super().__init__()
        self.layer, self.layout = nn.Linear(8, 8), layout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.layer(torch.nested.as_nested_tensor(list(x.split([2, 5, 3])), layout=self.layout)).unbind())


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("recipe", [OVERQ, Recipe(METHODS["olive"](), first=None, last=None, equalize=0.5)])
def test_nested_tensors_are_observed_and_quantized(layout: torch.layout, recipe: Recipe) -> None:
    model, x = Nests(layout).eval(), torch.randn(10, 8)
    q, dense = overq.quantize(model, [x], recipe), overq.quantize(model.layer, [x], recipe)
    assert q.layer.step == dense.step
    with torch.no_grad():
        assert torch.allclose(q(x), dense(x), atol=1e-6)


@pytest.mark.parametrize("recipe", [OVERQ, OVERQ.with_(reorder=True, equalize=0.5), Recipe(METHODS["olive"](), first=None, last=None)])
def test_compiled_scripted_parallel_and_wrapped_copies_compute_the_same(recipe: Recipe) -> None:
    q = overq.quantize(net(), X, recipe)
    wanted = q(X)
    assert torch.equal(torch.compile(q, backend="eager")(X), wanted)
    assert torch.equal(nn.DataParallel(q)(X), wanted)
    assert torch.equal(q[0]._replicate_for_data_parallel().__class__.forward(_replica(q[0]), X), q[0](X))
    assert torch.equal(copy.deepcopy(q)(X), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(q))(X), wanted)
    assert torch.equal(copy.deepcopy(copy.deepcopy(q).train())(X), wanted)


def _replica(layer: nn.Module) -> nn.Module:
    """As torch.nn.parallel.replicate makes one for a device."""
    made = layer._replicate_for_data_parallel()
    for name, value in layer._parameters.items():
        setattr(made, name, None if value is None else value.detach().clone())
    for name, value in layer._buffers.items():
        setattr(made, name, value)
    return made


def test_a_compiled_model_is_quantized_as_the_model_that_it_wraps() -> None:
    model = net()
    wanted = overq.quantize(model, X, OVERQ)(X)
    assert torch.equal(overq.quantize(torch.compile(model, backend="eager"), X, OVERQ)(X), wanted)
    inside = nn.Sequential(torch.compile(model, backend="eager"))
    q = overq.quantize(inside, X, OVERQ)
    assert torch.equal(q(X), wanted)
    assert [r.name for r in overq.summary(q)] == ["0.0", "0.2"]
    model.compile(backend="eager")
    assert torch.equal(overq.quantize(model, X, OVERQ)(X), wanted)


class LoRA(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x)).to(self.base.weight.dtype)


def test_adapters_around_a_layer_before_and_after_quantization() -> None:
    x = torch.randn(64, 16)
    model = nn.Sequential(LoRA(nn.Linear(16, 16)), nn.ReLU(), nn.Linear(16, 4)).eval()
    q = overq.quantize(model, x, A8)
    assert [r.name for r in overq.summary(q)] == ["0.base", "0.down", "0.up", "2"]
    assert sqnr(model(x), q(x)) > 30
    q = overq.quantize(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)), x, A8)
    wanted = q(x)
    q[0] = LoRA(q[0])
    nn.init.zeros_(q[0].up.weight)
    assert torch.equal(q(x), wanted)
    with pytest.raises(InputError, match="layer '0' was quantized, but was replaced since: it is a LoRA now"):
        overq.summary(q)


def test_merging_an_adapter_into_a_quantized_weight_is_noticed() -> None:
    q = overq.quantize(net(), X, A8)
    q[0].weight.data += 0.01
    for use in (overq.summary, lambda model: overq.save(model, "never")):
        with pytest.raises(InputError, match="layer '0': its weight was changed after it was quantized; quantize the float model anew"):
            use(q)


# What hangs on a layer ------------------------------------------------------------------------------


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


# Weights that are read without a call ---------------------------------------------------------------


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


# The self-check -------------------------------------------------------------------------------------


class OwnFastPath(nn.Module):
    """Like PyTorch's: without gradients and hooks it reads the weights itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        if torch.is_grad_enabled() or self.second._forward_pre_hooks or self.second._forward_hooks:
            return self.second(x)
        return F.linear(x, self.second.weight, self.second.bias)


def test_a_quantizer_that_does_not_run_is_an_error_with_the_layer_s_name() -> None:
    with pytest.raises(FidelityError, match=r"^layer 'second': its quantizer ran 0 times where the float layer is called 1 times: "):
        overq.quantize(OwnFastPath(), torch.randn(8, 16), A8)
    assert len(overq.summary(overq.quantize(OwnFastPath(), torch.randn(8, 16), A8, check=False))) == 2


class Asks(nn.Module):
    """Does one thing with layers of PyTorch, another with others."""

    def __init__(self, behind: bool) -> None:
        super().__init__()
        self.first, self.second, self.behind = nn.Linear(16, 16), nn.Linear(16, 16), behind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if type(self.first) is nn.Linear and not self.behind:
            x = torch.relu(x)
        x = self.second(x)
        return x * 2 if type(self.first) is nn.Linear and self.behind else x


@pytest.mark.parametrize(("behind", "words"), [
    (False, "layer 'second': with its quantizer switched off, the copy of it computes something else than the float layer"),
    (True, "the copy computes something else than the float model behind its quantized layers, the last of which is 'second'"),
])  # fmt: skip
@pytest.mark.parametrize("recipe", [A8, OVERQ.with_(reorder=True, equalize=0.5)])
def test_a_copy_that_computes_something_else_is_an_error(behind: bool, words: str, recipe: Recipe) -> None:
    with pytest.raises(FidelityError, match=f"^{words}; quantize"):
        overq.quantize(Asks(behind), torch.randn(8, 16), recipe)


def test_a_hook_that_writes_into_the_weight_is_an_error() -> None:
    model = net()
    model[2].register_forward_pre_hook(lambda m, a: m.weight.data.clamp_(-0.01, 0.01) is None or None)
    with pytest.raises(FidelityError, match=r"^layer '2': something writes into its weight while the model runs"):
        overq.quantize(model, X, A8)


def test_random_and_stateful_models_pass_and_stay_as_they_were() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(16, 16), 0
            self.register_buffer("state", torch.zeros(16))

        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            self.calls += 1
            self.state += 1
            y = F.dropout(self.layer(x), training=True) + self.state
            return {"y": y, "noise": [torch.rand(3), (y > 0)], "name": "odd", "nothing": None}

    model, before = Odd(), torch.random.get_rng_state()
    q = overq.quantize(model, [torch.randn(16, 16, generator=torch.Generator().manual_seed(0))], A8)
    assert (model.calls, q.calls) == (0, 0)
    assert not q.state.any()
    assert before.shape == torch.random.get_rng_state().shape


def test_the_check_costs_two_runs_of_a_few_rows() -> None:
    rows: list[int] = []
    model = net()
    model.register_forward_pre_hook(lambda m, a: rows.append(len(a[0])))
    overq.quantize(model, X.repeat(4, 1, 1, 1), A8, check=False)
    before = list(rows)
    rows.clear()
    overq.quantize(model, X.repeat(4, 1, 1, 1), A8)
    assert rows == [*before, 4, 4]


def test_a_model_for_whole_batches_is_checked_on_one() -> None:
    class Whole(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.view(32, 8, 9, 9))

    assert len(overq.summary(overq.quantize(Whole(conv()), X, A8))) == 1


@pytest.mark.parametrize(("name", "dtype"), [
    *((name, torch.bfloat16) for name in METHODS), ("overq", torch.float16), ("overq", torch.float64), ("olive", torch.float64),
])  # fmt: skip
def test_the_check_passes_with_every_method_transform_and_dtype(name: str, dtype: torch.dtype) -> None:
    recipe = Recipe(METHODS[name](), weight_bits=4, first=None, last=None, reorder=True, equalize=0.5, bias_correction=True)
    q = overq.quantize(net().to(dtype), X[:8], recipe)
    assert q(X.to(dtype)).dtype == dtype
    assert all("reordered" in r.note for r in overq.summary(q)) == METHODS[name]().neighbours
