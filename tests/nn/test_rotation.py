"""Rotations: orthogonal, undone in the weights, at run time or folded into a decoder's weights."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from overq import Format, Recipe, load, quantize, save, summary
from overq.errors import FidelityError, FormatError, InputError
from overq.integer import integer_network
from overq.methods import Dynamic, OverQ, Uniform
from overq.nn.folding import fold_rotation
from overq.nn.rotation import factors, matrix, rotated


@pytest.mark.parametrize("lanes", [1, 2, 7, 64, 96, 576, 1536])
def test_rotations_are_orthogonal_and_mix_all_lanes(lanes):
    q = matrix(lanes, 3)
    assert torch.allclose(q @ q.T, torch.eye(lanes, dtype=torch.float64), atol=1e-12)
    assert np.prod(factors(lanes), dtype=int) == lanes
    assert float(q.abs().max()) <= 1.5 / lanes**0.5
    x = torch.randn(3, lanes, 5, generator=torch.Generator().manual_seed(lanes))
    assert torch.allclose(rotated(x, 3, 1), torch.einsum("nkp,kl->nlp", x, q.float()), atol=1e-5)
    assert rotated(x.half(), 3, 1).dtype == torch.float16


def test_an_outlier_is_spread_over_all_lanes():
    x = torch.zeros(1, 512)
    x[0, 17] = 512.0
    assert rotated(x, 0).abs().max() == pytest.approx(512**0.5, rel=1e-5)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 5)
    ).eval()


X = torch.randn(20, 3, 6, 6, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("method", [Format.plain(8), Uniform(8), Dynamic(Uniform(8), "max"), OverQ(6, 4), Dynamic(OverQ(6, 4), "rms")])
def test_a_rotated_layer_computes_what_it_did(method, tmp_path):
    """Nearly, at many bits; inputs become signed; a file keeps it."""
    model = network()
    quantized = quantize(model, X, Recipe(method, rotate=True, first=None, last=None))
    with torch.no_grad():
        wanted, got = model(X), quantized(X)
    assert (wanted - got).norm() < 0.05 * wanted.norm()
    assert all("rotated" in report.note for report in summary(quantized))
    assert quantized[2].fitted.signed
    save(quantized, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors", network())(X)
    assert (again - got).norm() < 0.01 * got.norm()  # sums of another order may move a value to the next level
    with pytest.raises((FormatError, InputError), match="rotated at run time|a step for each"):
        integer_network(quantized)


def test_rotation_helps_where_one_channel_has_the_outliers():
    torch.manual_seed(1)
    layer = nn.Sequential(nn.Linear(64, 32))
    x = torch.randn(200, 64)
    x[:, 5] *= 50
    errors = []
    for rotate in (False, True):
        quantized = quantize(layer, x, Recipe(Dynamic(Uniform(4), "max"), rotate=rotate, first=None, last=None))
        errors.append(float((quantized(x) - layer(x)).detach().norm()))
    assert errors[1] < errors[0] / 2


class RMSNorm(nn.Module):
    def __init__(self, width, bias=False):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.bias = nn.Parameter(torch.ones(width)) if bias else None

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class Block(nn.Module):
    """Two query heads of 8 for each of 2 key-value heads, without positions."""

    def __init__(self, width, norm):
        super().__init__()
        self.heads = 4
        self.attn_norm, self.ffn_norm = norm(width), norm(width)
        self.attn_q, self.attn_output = nn.Linear(width, 32), nn.Linear(32, width)
        self.attn_k, self.attn_v = nn.Linear(width, 16), nn.Linear(width, 16)
        self.ffn_gate, self.ffn_up, self.ffn_down = nn.Linear(width, 24), nn.Linear(width, 24), nn.Linear(24, width)

    def forward(self, x):
        h = self.attn_norm(x)
        q, k, v = (f(h).unflatten(-1, (-1, 8)).transpose(1, 2) for f in (self.attn_q, self.attn_k, self.attn_v))
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        x = x + self.attn_output(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        h = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Decoder(nn.Module):
    def __init__(self, norm=RMSNorm, width=32):
        super().__init__()
        torch.manual_seed(0)
        self.token_embd = nn.Embedding(40, width)
        self.blk = nn.ModuleList(Block(width, norm) for _ in range(2))
        self.output_norm = norm(width)
        self.output = nn.Linear(width, 40, bias=False)
        self.output.weight = self.token_embd.weight

    def forward(self, ids):
        x = self.token_embd(ids)
        for block in self.blk:
            x = block(x)
        return self.output(self.output_norm(x))


IDS = torch.randint(40, (3, 11), generator=torch.Generator().manual_seed(1))


def test_a_rotation_folded_into_a_decoder_changes_its_tensors_and_not_its_function():
    model = Decoder()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = fold_rotation(model, IDS)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    inputs = {}
    for name, net in (("float", model), ("made", made)):
        hooks = [
            m.register_forward_pre_hook(lambda m, a, key=(name, part): inputs.__setitem__(key, a[0].detach().clone()))
            for part, m in net.named_modules()
            if isinstance(m, nn.Linear)
        ]
        with torch.no_grad():
            assert torch.allclose(net(IDS), model(IDS), atol=1e-4)
        for hook in hooks:
            hook.remove()
    gains = {"attn_q": "attn_norm", "ffn_up": "ffn_norm"}
    for reader, norm in gains.items():
        gain = getattr(model.blk[1], norm).weight
        turned = rotated(inputs["float", f"blk.1.{reader}"] / gain, 0)
        assert torch.allclose(inputs["made", f"blk.1.{reader}"], turned, atol=1e-4)
    heads = inputs["float", "blk.0.attn_output"].unflatten(-1, (4, 8))
    assert torch.allclose(inputs["made", "blk.0.attn_output"], rotated(heads, 1).flatten(2), atol=1e-4)
    assert torch.allclose(inputs["made", "blk.1.ffn_down"], inputs["float", "blk.1.ffn_down"], atol=1e-4)


def test_transformers_names_are_known_too():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    assert fold_rotation(model, IDS) is not model


def test_what_cannot_be_folded_is_refused():
    with pytest.raises(InputError, match="families Llama, as transformers names it; Llama, as GGUF names it; this model is none"):
        fold_rotation(network())
    with pytest.raises(InputError, match="'blk.0.attn_norm', a LayerNorm, does not commute with rotations"):
        fold_rotation(Decoder(nn.LayerNorm))
    with pytest.raises(InputError, match="does not commute"):
        fold_rotation(Decoder(lambda width: RMSNorm(width, bias=True)))
    wired_otherwise = Decoder()
    wired_otherwise.blk[0].ffn_down.register_forward_hook(lambda m, a, y: y.abs())
    with pytest.raises(FidelityError, match="computes something else"):
        fold_rotation(wired_otherwise, IDS)
