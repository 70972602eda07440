"""The small language model of ReLUs: it learns, and every layer but attention's output reads zeros that cost nothing."""

from pathlib import Path

import pytest
import relu_language
import torch

from overq import Format, Recipe, quantize
from overq.errors import InputError
from overq.nn import summary

TEXT = torch.tensor(list((Path(__file__).parents[2] / "docs" / "format.md").read_bytes()), dtype=torch.int64)


def test_it_learns_and_its_zeros_are_its_own(monkeypatch, tmp_path) -> None:
    ids, loss = TEXT[: 4 * 128].view(4, 128), torch.nn.functional.cross_entropy
    begun, model = relu_language.train(TEXT, 0), relu_language.train(TEXT, 12)
    before, after = (loss(m(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) for m in (begun, model))
    assert after < before - 1
    facts = summary(quantize(model, [ids], Recipe(Format(4, 8, 3, 3, "largest"), first=None, last=None)))
    assert {r.name.rpartition(".")[2] for r in facts if r.format.signed} == {"out"}
    assert all(r.counts.zero_rate > 0.3 for r in facts if not r.format.signed)
    monkeypatch.setattr(relu_language, "WEIGHTS", tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"^none\.safetensors is not there yet: python studies/relu_language\.py makes it$"):
        relu_language.network()
    monkeypatch.setattr(relu_language, "TEXT", tmp_path)
    with pytest.raises(InputError, match=r"^the text is absent: .*valid\.txt$"):
        relu_language.validation(0, 0.5)
