"""Text: windows of tokens, and perplexity, agreement and divergence of next tokens."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from overq import compare
from overq.errors import InputError
from overq.study.measure import measured
from overq.study.text import next_tokens, open_text, windows

VOCABULARY = 11


class Bigrams(nn.Module):
    """Scores of the next token from this one."""

    def __init__(self, seed: int, wrapped: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding, self.head, self.wrapped = nn.Embedding(VOCABULARY, 6), nn.Linear(6, VOCABULARY), wrapped

    def forward(self, ids):
        scores = self.head(self.embedding(ids))
        return type("Output", (), {"logits": scores})() if self.wrapped else scores


IDS = torch.randint(VOCABULARY, (403,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_perplexity_is_what_torch_s_cross_entropy_says(wrapped, batch_size):
    data, model = windows("text", IDS, 200), Bigrams(0, wrapped)
    found = measured(model, data, range(2), batch_size, ["perplexity"])
    ids = IDS[:400].view(2, 200)
    with torch.no_grad():
        losses = [functional.cross_entropy(Bigrams(0)(w[None])[0, :-1], w[1:]).item() for w in ids]
    assert found.value("perplexity") == pytest.approx(math.exp(sum(losses) / 2), rel=1e-6)
    assert found.columns["perplexity"][:, 1].tolist() == [199, 199]


def test_agreement_and_divergence_are_of_the_float_network_s_distribution():
    data = windows("text", IDS, 40, limit=7)
    x = data.load(range(data.count))
    with torch.no_grad():
        wanted, given = Bigrams(0)(x), Bigrams(1)(x)
    found = measured(Bigrams(1), data, range(7), 2, ["agreement", "kl"], wanted.half())
    p, q = wanted[:, :-1].softmax(-1), given[:, :-1].softmax(-1)
    assert found.value("kl") == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-2)
    assert found.value("agreement") == pytest.approx(100 * float((wanted.argmax(-1) == given.argmax(-1))[:, :-1].float().mean()))
    same = measured(Bigrams(0), data, range(7), 2, ["agreement", "kl"], wanted)
    assert same.value("agreement") == 100
    assert abs(same.value("kl")) < 1e-6


def test_windows_are_compared_in_pairs():
    """Two models on the same windows: the ratio of perplexities lies in its interval, and order tells who is better."""
    data = windows("text", IDS, 20)
    a, b = (measured(Bigrams(i), data, range(data.count), 4, ["perplexity"]).columns["perplexity"] for i in (0, 1))
    p = compare.paired(a, b, compare.LOSS)
    ratio = np.exp(b[:, 0].sum() / b[:, 1].sum() - a[:, 0].sum() / a[:, 1].sum())
    assert np.exp(p.difference) == pytest.approx(ratio)
    assert p.low <= p.difference <= p.high
    assert p.only_b == int((b[:, 0] < a[:, 0]).sum())


def test_a_file_in_windows(tmp_path):
    (tmp_path / "a.txt").write_text("abc " * 10, encoding="utf-8")
    data = open_text(tmp_path / "a.txt", lambda text: [ord(c) for c in text], 16)
    assert (data.count, data.name) == (2, "a.txt")
    assert data.load([1])[0, :4].tolist() == [97, 98, 99, 32]
    with pytest.raises(InputError, match=r"a\.txt: 40 tokens do not fill one window of 64"):
        open_text(tmp_path / "a.txt", lambda text: [ord(c) for c in text], 64)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a readable text file"):
        open_text(tmp_path / "b.txt", list, 16)
    with pytest.raises(InputError, match="at least 2 tokens"):
        windows("text", IDS, 1)


def test_what_is_no_text_is_refused():
    with pytest.raises(
        InputError, match=r"perplexity needs scores \[N, T, vocabulary\] of token numbers \[N, T\], got \[3, 5\] of \[3, 5\] float32"
    ):
        next_tokens("perplexity", torch.zeros(3, 5), torch.zeros(3, 5), None)
    with pytest.raises(InputError, match="token 9 is beyond the network's vocabulary of 4"):
        next_tokens("perplexity", torch.zeros(1, 5, 4), torch.full((1, 5), 9), None)
