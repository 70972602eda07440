"""The small language model of ReLUs: it learns, and every layer but attention's output reads zeros that cost nothing."""

import pytest
import relu_language
import torch

from overq import Format, Recipe, quantize
from overq.errors import InputError
from overq.nn import summary


@pytest.mark.slow
def test_it_learns_and_its_zeros_are_its_own(monkeypatch, tmp_path) -> None:
    ids = relu_language.part(0.9, 1)[: 4 * 128].view(4, 128)
    model = relu_language.train(6)
    before = torch.nn.functional.cross_entropy(relu_language.train(0)(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    after = torch.nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert after < before
    facts = summary(quantize(model, [ids], Recipe(Format(4, 8, 3, 3, "largest"), first=None, last=None)))
    assert {r.name.rpartition(".")[2] for r in facts if r.format.signed} == {"out"}
    assert all(r.counts.zero_rate > 0.3 for r in facts if not r.format.signed)
    monkeypatch.setattr(relu_language, "WEIGHTS", tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"^none\.safetensors is not there yet: python studies/relu_language\.py makes it$"):
        relu_language.network()
