"""Tiny models of `transformers` with random weights: every product of matrices is quantized, or named with its share."""

import pytest
import torch

import overq
from overq import Format, LayerRule, Recipe, quantize
from overq.errors import InputError
from overq.nn import Quantized, summary
from overq.nn.cache import quantized_cache
from overq.nn.convert_sites import factors_of

transformers = pytest.importorskip("transformers")

OVERQ = Format(4, 4, 3, 3, "largest", True)
RECIPE = Recipe(OVERQ, first=None, last=None)
SMALL = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 50}
GROUPED = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0}
IDS = torch.randint(1, 50, (3, 9), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
KINDS = {
    "OPT": lambda t: t.OPTForCausalLM(t.OPTConfig(hidden_size=16, num_attention_heads=4, num_hidden_layers=2, ffn_dim=32, vocab_size=50,
        word_embed_proj_dim=16, max_position_embeddings=32)),
    "Llama": lambda t: t.LlamaForCausalLM(t.LlamaConfig(**GROUPED)),
    "GPT2": lambda t: t.GPT2LMHeadModel(t.GPT2Config(n_embd=16, n_head=4, n_layer=2, vocab_size=50, n_positions=32)),
    "BERT": lambda t: t.BertForMaskedLM(t.BertConfig(**SMALL, max_position_embeddings=32)),
    "Mixtral": lambda t: t.MixtralForCausalLM(t.MixtralConfig(**GROUPED, num_local_experts=4)),
    "ViT": lambda t: t.ViTForImageClassification(t.ViTConfig(hidden_size=16, num_attention_heads=4, num_hidden_layers=2,
        intermediate_size=32, image_size=16, patch_size=4)),
}  # fmt: skip


def made(kind, attention="sdpa"):
    torch.manual_seed(0)
    model = KINDS[kind](transformers).eval()
    model.set_attn_implementation(attention)
    model.config.use_cache = False
    return model


def inputs(kind):
    return {"pixel_values": IMAGES} if kind == "ViT" else {"input_ids": IDS}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_product_is_quantized_or_named(kind, attention) -> None:
    model = made(kind, attention)
    q = quantize(model, [inputs(kind)], RECIPE)
    facts = summary(q)
    rest = {part.what for part in facts.shares if not part.quantized}
    assert rest == {"scaled_dot_product_attention" if attention == "sdpa" else "matmul of two activations (@, bmm, einsum)"}
    assert all(part.what in str(facts) and part.places for part in facts.shares)
    both = quantize(model, [inputs(kind)], RECIPE.with_(products=LayerRule(OVERQ)))
    assert summary(both).quantized_share == 1
    assert len(factors_of(both)) == 2 * 4 + (2 * 3 if kind == "Mixtral" else 0)
    with torch.no_grad():
        wanted, got = model(**inputs(kind)).logits, both(**inputs(kind)).logits
    assert torch.isfinite(got).all()
    assert not torch.allclose(wanted, got)


@pytest.mark.parametrize("kind", ["Llama", "BERT", "OPT", "ViT"])
def test_query_key_and_value_are_one_tensor(kind) -> None:
    q = quantize(made(kind), [inputs(kind)], Recipe(OVERQ))
    layers = [(name, m) for name, m in q.named_modules() if isinstance(m, Quantized)]
    groups = [[m for name, m in layers if f".{i}." in name and m.shared is not None] for i in (0, 1)]
    for group in groups:
        tensors = {id(m.shared) for m in group}
        assert len(tensors) == (2 if kind == "Llama" else 1)
        for tensor in tensors:
            assert len({(m.step, m.format) for m in group if id(m.shared) == tensor}) == 1


def test_padding_does_not_calibrate() -> None:
    model, real = made("BERT"), torch.ones_like(IDS)
    real[0, 4:] = real[1, 6:] = 0
    recipe = RECIPE.with_(products=LayerRule(OVERQ))
    batch = {"input_ids": IDS, "attention_mask": real}
    other = {"input_ids": torch.where(real == 1, IDS, 7), "attention_mask": real}
    one, two = (quantize(model, [b], recipe, mask="attention_mask") for b in (batch, other))
    assert [r.step for r in summary(one)] == pytest.approx([r.step for r in summary(two)])


CHANCES = {"sdpa": "*.weights", "eager": "*.matmul1.first"}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["Llama", "GPT2", "OPT"])
def test_generation_with_a_cache_in_the_format_is_the_answer_to_the_whole_prompt(kind, attention) -> None:
    model = made(kind, attention).double()
    q = quantize(model, [IDS], RECIPE.with_(products=LayerRule(OVERQ), overrides=((CHANCES[attention], LayerRule(Format.plain(8))),)))
    cache, scores = quantized_cache(q), []
    with torch.no_grad():
        for t in range(IDS.shape[1]):
            scores.append(q(IDS[:, t : t + 1], past_key_values=cache, use_cache=True).logits)
        whole = q(IDS).logits
        torch.testing.assert_close(torch.cat(scores, 1), whole, rtol=1e-6, atol=1e-6)
        longer = q.generate(IDS, past_key_values=quantized_cache(q), max_new_tokens=4, do_sample=False, use_cache=True, pad_token_id=0)
        slowly = IDS
        for _ in range(4):
            slowly = torch.cat([slowly, q(slowly).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(longer, slowly)
    heads = 2 if kind == "Llama" else 4
    assert cache.bits == 2 * 2 * IDS.numel() * heads * 4 * 5  # keys and values of two layers, a digit and a state for each
    assert cache.layers[0].keys.unique().numel() < 500  # multiples of a step


def test_a_cache_for_a_model_with_float_products_is_refused() -> None:
    model = made("Llama")
    q = quantize(model, [IDS], RECIPE)
    with pytest.raises(InputError, match=r"^the model's keys and values are float: quantize it with Recipe\(products=\.\.\.\)$"):
        quantized_cache(q)
    both = quantize(model, [IDS], RECIPE.with_(products=LayerRule(OVERQ)))
    with pytest.raises(InputError, match=r"^attention of layer 0 is float"):
        q(IDS, past_key_values=quantized_cache(both), use_cache=True)


def test_save_pretrained_is_refused_by_name(tmp_path) -> None:
    q = quantize(made("Llama"), [IDS], RECIPE)
    with pytest.raises(InputError, match=r"^save_pretrained would lose the quantization: write the model with overq\.save"):
        q.save_pretrained(tmp_path)
    overq.save(q, tmp_path / "q.safetensors")
    again = overq.load(tmp_path / "q.safetensors", made("Llama"))
    assert torch.equal(again(IDS).logits, q(IDS).logits)
