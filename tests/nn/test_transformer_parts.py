"""What transformers and others are made of besides Conv2d and Linear: each part is quantized, and its copy computes what it does."""

import copy
from itertools import product

import pytest
import torch
from torch import nn

import overq
from overq import Format, Recipe, quantize
from overq.nn import Quantized, summary
from overq.nn.attention import separate
from overq.nn.layers import as_held, outputs_first

RECIPE = Recipe(Format(4, 4, 3, 3), first=None, last=None)
FINE = Recipe(Format.plain(8), first=None, last=None)


def rand(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


class Called(nn.Module):
    """The layer alone; an output of its own."""

    def __init__(self, layer, *more):
        super().__init__()
        self.layer, self.more = layer, more

    def forward(self, x):
        return self.layer(x, *self.more)


LAYERS = {
    "Conv3d": (lambda: nn.Conv3d(6, 4, 3, groups=2), (2, 6, 5, 5, 5)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(6, 4, 3, stride=2, groups=2), (2, 6, 5)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1), (2, 6, 5, 5)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(6, 4, 2), (2, 6, 3, 3, 3)),
}


def conv1d():
    return pytest.importorskip("transformers.pytorch_utils").Conv1D(6, 10)


@pytest.mark.parametrize("name", [*LAYERS, "Conv1D"])
def test_other_layers_compute_with_what_their_integers_spell(name, tmp_path) -> None:
    make, shape = LAYERS.get(name, (conv1d, (2, 5, 10)))
    torch.manual_seed(0)
    model, x = Called(make()).eval(), rand(*shape)
    q = quantize(model, [x], RECIPE.with_(reorder=True, equalize=0.5, bias_correction=True))
    layer = q.layer
    assert isinstance(layer, Quantized)
    assert [r.kind for r in summary(q)] == [name]
    assert summary(q).quantized_share == 1
    spelled = layer.weight_integers * layer.weight_scale.view(-1, *[1] * (layer.weight_integers.ndim - 1))
    assert torch.equal(layer.weight, as_held(layer, spelled))
    assert torch.equal(outputs_first(layer, layer.weight), spelled)
    by_hand = copy.deepcopy(model.layer)
    by_hand.weight.data, by_hand.bias = layer.weight.data, layer.bias
    assert torch.equal(q(x), by_hand(layer.quantize_input(x)))
    close = quantize(model, [x], FINE)
    assert (close(x) - model(x)).norm() < 0.03 * model(x).norm()
    overq.save(q, tmp_path / "m.safetensors")
    assert torch.equal(overq.load(tmp_path / "m.safetensors", model)(x), q(x))


def test_the_size_that_a_transposed_convolution_is_asked_for() -> None:
    model, x = Called(nn.ConvTranspose2d(3, 4, 2, stride=2), [11, 11]), rand(2, 3, 5, 5)
    assert quantize(model, [x], FINE)(x).shape == (2, 4, 11, 11)


MASKS = {
    "none": {}, "causal": {"attn_mask": nn.Transformer.generate_square_subsequent_mask(5), "is_causal": True},
    "bool": {"attn_mask": torch.ones(5, 5).triu(1).bool()}, "per head": {"attn_mask": torch.randn(12, 5, 5)},
    "padding": {"key_padding_mask": torch.arange(5) > torch.tensor([[4], [3], [2]])},
}  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"add_bias_kv": True, "add_zero_attn": True}, {"kdim": 6, "vdim": 7}], ids=str)
@pytest.mark.parametrize("batch_first", [True, False])
def test_separate_attention_is_the_attention(options, batch_first) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 4, batch_first=batch_first, **options).eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    apart = separate(copy.deepcopy(attention))
    q, k, v = (rand(3, 5, n) for n in (8, options.get("kdim", 8), options.get("vdim", 8)))
    q, k, v = (x if batch_first else x.transpose(0, 1) for x in (q, k, v))
    for (name, mask), weights, average in product(MASKS.items(), (True, False), (True, False)):
        call = {**mask, "need_weights": weights, "average_attn_weights": average}
        for wanted, got in zip(attention(q, k, v, **call), apart(q, k, v, **call), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    alone = [x[0] if batch_first else x[:, 0] for x in (q, k, v)]
    for wanted, got in zip(attention(*alone), apart(*alone), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
def test_an_encoder_layer_is_quantized_whole_on_every_path(norm_first) -> None:
    torch.manual_seed(0)
    model, x = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first), 2).eval(), rand(3, 5, 8)
    q = quantize(model, [x], RECIPE)
    parts = [*(f"self_attn.{name}" for name in ("query", "key", "value", "out_proj")), "linear1", "linear2"]
    assert {name for name, m in q.named_modules() if isinstance(m, Quantized)} == {f"layers.{i}.{name}" for i in (0, 1) for name in parts}
    layer = q.layers[0].self_attn
    assert layer.query.step == layer.key.step == layer.value.step
    assert layer.query.shared is layer.value.shared is not None
    with torch.no_grad():
        fast = q(x)  # where PyTorch would take its fused path
    assert torch.equal(fast, q(x.clone().requires_grad_()).detach())
    assert not torch.allclose(fast, model(x), atol=1e-3)
    assert "scaled_dot_product_attention" in str(summary(q))
