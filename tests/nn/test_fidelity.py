"""A quantized copy computes what its summary says on every path of PyTorch, and a check of its own says where it does not."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import overq
from fidelity import A2, A8, OVERQ, TOKENS, X, conv, net, ran, sqnr
from overq import Recipe
from overq.errors import FidelityError, InputError
from overq.methods import METHODS

pytestmark = pytest.mark.usefixtures("seeded_quietly")


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
