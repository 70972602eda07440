"""Sensitivity: each layer alone, all others float."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch
from torch import nn

from overq.errors import CalibrationError, FormatError, InputError, NonFiniteError
from overq.nn import LayerRule, Recipe, observe, quantize
from overq.spec import Format
from overq.tune.sensitivity import LOSSES, Sensitivity, sensitivity

CANDIDATES = (Format.plain(3), Format(3, 2), Format.plain(8))
ALL = Recipe(first=None, last=None)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def samples() -> torch.Tensor:
    return torch.randn(70, 8, generator=torch.Generator().manual_seed(1)) * 2


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_a_trial_is_the_model_with_that_layer_alone_quantized(loss: str) -> None:
    """The expected figures are worked out from `quantize` with every other layer skipped."""
    model, x = network(), samples()
    labels = torch.arange(70) % 4
    found = sensitivity(model, x, CANDIDATES, recipe=ALL, labels=labels, loss=loss)
    with torch.no_grad():
        wanted = model(x)
    assert found.correct == int((wanted.argmax(1) == labels).sum())
    for layer in found.layers:
        for trial, candidate in zip(layer.trials, CANDIDATES, strict=True):
            recipe = ALL.with_(overrides=(("*", LayerRule(skip=True)), (layer.name, LayerRule(candidate))))
            with torch.no_grad():
                got = quantize(model, x, recipe)(x)
            if loss == "mse":
                expected = ((got - wanted) ** 2).sum() / (wanted**2).sum()
            else:
                p, q = wanted.softmax(1), got.softmax(1)
                expected = (p * (p / q).log()).sum(1).mean()
            assert trial.loss == pytest.approx(expected.item(), rel=1e-3, abs=1e-7)
            assert trial.correct == int((got.argmax(1) == labels).sum())
            assert trial.candidate == candidate


def test_model_and_samples_are_left_as_they_were_and_one_observation_serves_all() -> None:
    model, x = network().train(), samples()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    seen = observe(model, x)
    found = sensitivity(model, x, CANDIDATES, seen=seen)
    assert found == sensitivity(model, iter(x.split(32)), CANDIDATES)  # a one-way iterator is kept
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [layer.name for layer in found.layers] == ["3"]  # first and last have rules of their own


def test_counts_values_and_multiplications() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.Conv2d(6, 5, 1))
    found = sensitivity(model, torch.rand(40, 4, 9, 9), [Format.plain(4)], recipe=ALL, loss="mse")
    assert [layer.values for layer in found.layers] == [40 * 4 * 81, 40 * 6 * 25]
    assert [layer.macs for layer in found.layers] == [40 * 25 * 6 * 2 * 9, 40 * 25 * 5 * 6]


def test_a_format_that_a_layer_cannot_use_counts_as_what_it_uses() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 5, 1))
    first, second = sensitivity(model, torch.randn(8, 4, 9, 9), [Format.plain(4), Format(4, 4)], recipe=ALL, loss="mse").layers
    assert [t.bits for t in first.trials] == [4, 4]
    assert first.trials[0].loss == first.trials[1].loss
    assert first.trials[1].candidate == Format(4, 4)
    assert all(t.format.signed for t in first.trials)
    assert [t.bits for t in second.trials] == [4, 5]


def test_table_records_and_json() -> None:
    model, x = network(), samples()
    found = sensitivity(model, x, CANDIDATES, recipe=ALL, labels=torch.zeros(70, dtype=torch.long), loss="kl")
    text = " ".join(str(found).split())  # the title may wrap
    assert found.layers[0].trials[1].label == "A3 r2+f2 c2"
    assert all(word in text for word in ("A3 plain", "A3 r2+f2 c2", "KL to the float model", "points of top-1 lost"))
    rows = list(found.records())
    assert len(rows) == 9
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writerows(rows)
    assert Sensitivity.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_progress_counts_every_trial() -> None:
    calls: list[tuple[str, int, int]] = []
    sensitivity(network(), samples(), CANDIDATES, recipe=ALL, progress=lambda *call: calls.append(call))
    assert calls == [(name, 3 * k + i, 9) for k, name in enumerate(("0", "3", "5")) for i in range(3)]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layer(x), x


def test_refusals() -> None:
    model, x = network(), samples()
    with pytest.raises(FormatError, match=r"^no loss 'l1'; there are mse, kl$"):
        sensitivity(model, x, CANDIDATES, loss="l1")
    with pytest.raises(FormatError, match=r"^candidates must be at least one Format$"):
        sensitivity(model, x, [])
    with pytest.raises(CalibrationError, match=r"^no layer is free"):
        sensitivity(model, x, CANDIDATES, recipe=Recipe(overrides=(("*", LayerRule()),)))
    with pytest.raises(CalibrationError, match=r"^no calibration samples"):
        sensitivity(model, [], CANDIDATES)
    with pytest.raises(CalibrationError, match=r"^the observations are of another model: it has no layer '0'"):
        sensitivity(Pair(), x, CANDIDATES, recipe=ALL, seen=observe(model, x))
    with pytest.raises(InputError, match=r"^the model returned tuple, not a tensor: give a `forward` that picks one$"):
        sensitivity(Pair(), x, CANDIDATES, recipe=ALL)
    with pytest.raises(InputError, match=r"^labels of shape \[3\] do not fit 70 rows of output$"):
        sensitivity(model, x, CANDIDATES, labels=torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match=r"^labels need outputs \[N, classes\], not \[70, 1, 4\]$"):
        sensitivity(nn.Sequential(network(), nn.Unflatten(1, (1, 4))), [x], CANDIDATES, labels=torch.zeros(70))
    broken = network()
    broken[5].bias.data[0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"^the float model's output holds NaN or infinity"):
        sensitivity(broken, x, CANDIDATES)


def test_outputs_may_be_picked_by_forward() -> None:
    found = sensitivity(Pair(), samples(), CANDIDATES, recipe=ALL, loss="mse", forward=lambda model, x: model(x)[0])
    losses = [trial.loss for trial in found.layers[0].trials]
    assert losses[2] < losses[0] < 0.1
