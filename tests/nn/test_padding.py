"""Padded positions have no part in calibration: whatever stands there, and however much of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import overq
from overq import Format, Recipe
from overq.errors import CalibrationError
from overq.nn import Observations, observe
from overq.nn.bias import observe_outputs

N, T, REAL = 40, 7, 5
RECIPE = Recipe(Format(4, 2), first=None, last=None, bias_correction=True)


class Encoder(nn.Module):
    """The case of a public bug report: an encoder that is told of padding, and a head behind it."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.e = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, batch_first=batch_first), 2)
        self.h = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.h(self.e(x, src_key_padding_mask=mask))


class Tagger(nn.Module):
    """Layers before and after the axes change, none of which tells of padding by itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.conv, self.b, self.pooled = nn.Linear(8, 12), nn.Conv1d(12, 12, 1), nn.Linear(12, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.conv(torch.relu(self.a(x)).transpose(1, 2)).transpose(1, 2)
        x = self.b(x.reshape(-1, 12)).reshape(*x.shape[:2], 6)
        real = torch.ones(x.shape[:2]) if attention_mask is None else attention_mask.float()
        return self.pooled((x * real[..., None]).sum(1) / real.sum(1, keepdim=True))


def mask(length: int = T) -> torch.Tensor:
    """True where padded: two of seven positions, more of them in every other sample."""
    real = torch.tensor([REAL, REAL - 2]).repeat(N // 2)
    return torch.arange(length)[None] >= real[:, None]


def sentences(features: int, length: int = T, garbage: float = 0.0) -> torch.Tensor:
    x = torch.randn(N, REAL, features, generator=torch.Generator().manual_seed(3))
    x = torch.cat([x, torch.zeros(N, length - REAL, features)], 1)
    return torch.where(mask(length)[..., None], torch.tensor(garbage), x)


def known(seen: Observations) -> dict[str, Any]:
    return {n: (o.low, o.high, o.values, o.histogram.tobytes(), o.sample.tobytes(), o.keys.tobytes()) for n, o in seen.layers.items()}


@pytest.mark.parametrize("batch_first", [True, False])
def test_an_encoder_s_padding_is_left_out_by_itself(batch_first: bool) -> None:
    model = Encoder(batch_first).eval()
    seen = []
    for garbage in (0.0, 1e4):
        x = sentences(16, garbage=garbage)
        seen.append(observe(model, [{"x": x if batch_first else x.transpose(0, 1), "mask": mask()}]))
    assert {o.values for name, o in seen[0].layers.items() if name.endswith("linear1")} == {(~mask()).sum().item() * 16}
    assert known(seen[0]) == known(seen[1])
    assert all(reading.padded == mask().sum() for reading in seen[0].readings.values())


def test_a_float_mask_is_a_mask() -> None:
    model, x = Encoder().eval(), sentences(16)
    additive = torch.zeros(N, T).masked_fill(mask(), float("-inf"))
    assert known(observe(model, [(x, additive)])) == known(observe(model, [(x, mask())]))


def test_without_padding_nothing_is_left_out() -> None:
    model, x = Encoder().eval(), sentences(16)
    seen = observe(model, [(x, torch.zeros(N, T, dtype=torch.bool))])
    assert {reading.padded for reading in seen.readings.values()} == {0}
    assert seen.layers["h"].values == N * T * 16


class Translator(nn.Module):
    """A decoder of as many positions as the encoder: what is padded there is another matter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.t, self.h = nn.Transformer(16, 4, 1, 1, 24, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.h(self.t(x, x, src_key_padding_mask=mask, memory_key_padding_mask=mask))


def test_a_decoder_s_positions_are_not_taken_for_the_encoder_s() -> None:
    seen = observe(Translator().eval(), [(sentences(16), mask())])
    padded = {name for name, reading in seen.readings.items() if reading.padded}
    attention = {f"t.encoder.layers.0.self_attn.{name}" for name in ("query", "key", "value", "out_proj")}
    assert padded == {"t.encoder.layers.0.linear1", "t.encoder.layers.0.linear2", *attention}


WAYS: dict[str, Any] = {
    "by name": "attention_mask",
    "a function": lambda batch: batch["attention_mask"],
    "a tensor": (~mask()).long(),
    "an array": (~mask()).numpy(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [N, 9])
def test_a_mask_leaves_padding_out_of_every_layer_that_has_positions(way: str, size: int) -> None:
    model, real = Tagger().eval(), (~mask()).long()
    seen = []
    for garbage in (0.0, -1e4):
        x = sentences(8, garbage=garbage)
        batches = [{"x": a, "attention_mask": b} for a, b in zip(x.split(size), real.split(size), strict=True)]
        seen.append(observe(model, batches, mask=WAYS[way]))
    assert known(seen[0]) == known(seen[1])
    assert [o.values for o in seen[0].layers.values()] == [int(real.sum()) * k for k in (8, 12, 12)] + [N * 6]
    assert [r.padded for r in seen[0].readings.values()] == [mask().sum()] * 3 + [0]
    assert known(observe(model, batches)) != known(seen[0])


def test_more_padding_changes_nothing() -> None:
    model = Encoder().eval()
    seen = [observe(model, [(sentences(16, length), mask(length))]) for length in (T, T + 6)]
    for name, one in seen[0].layers.items():
        other = seen[1].layers[name]
        assert one.values == other.values
        assert np.array_equal(one.keys, other.keys)
        assert np.allclose(one.sample, other.sample, rtol=0, atol=1e-5)


def test_pytorch_s_masks_say_where_padding_is() -> None:
    model, x = Encoder().eval(), sentences(16, garbage=50.0)
    assert known(observe(model, [(x, mask())], mask="~mask")) == known(observe(model, [(x, mask())]))
    with pytest.raises(CalibrationError, match=r"^the mask says real just where the model's encoder is told of padding: name it with a ~"):
        observe(model, [(x, mask())], mask="mask")
    with pytest.raises(CalibrationError, match=r"^a 'src_key_padding_mask' is true where it is padded, by convention: name it '~src_key_p"):
        observe(model, [(x, mask())], mask="src_key_padding_mask")


def test_padding_has_no_part_in_bias_correction() -> None:
    model, states = Tagger().eval(), []
    for garbage in (0.0, 500.0):
        batch = {"x": sentences(8, garbage=garbage), "attention_mask": ~mask()}
        quantized = overq.quantize(model, [batch], RECIPE, mask="attention_mask")
        states.append(quantized.state_dict())
        wanted, got = (observe_outputs(net, [batch], mask="attention_mask").moments for net in (model, quantized))
        for name, target in wanted.items():
            assert torch.allclose(got[name].mean, target.mean, rtol=0, atol=1e-4 * target.std.max().item())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_a_layer_whose_positions_are_others_is_observed_whole_and_known() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.after = nn.Linear(4, 4), nn.Conv1d(4, 4, 3)

        def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
            return self.after(self.layer(x.unflatten(1, (2, 4)).flatten(0, 1)).transpose(1, 2)).unflatten(0, (-1, 2)).mean((1, 3))

    seen = observe(Windows().eval(), [(torch.randn(6, 8, 4), torch.arange(8).expand(6, 8) < 5)], mask="real")
    assert {name: (r.padded, r.untold) for name, r in seen.readings.items()} == {"layer": (0, 48), "after": (0, 48)}


def test_masks_that_cannot_be_meant_are_refused() -> None:
    model, x, real = Tagger().eval(), sentences(8), ~mask()
    batch = {"x": x, "attention_mask": real}
    cases: list[tuple[Any, Any, str]] = [
        ([batch], "atention_mask", r"^no mask 'atention_mask' in the batch, which holds x, attention_mask$"),
        (x, "attention_mask", r"^no mask 'attention_mask' in the batch, which holds x$"),
        ([batch], lambda batch: torch.rand(N, T), r"^a mask must hold true and false, or 1 and 0, not other numbers$"),
        ([batch], lambda batch: True, r"^the mask of a batch must be a bool tensor of its positions"),
        (x, real[:20], r"^the mask has 20 rows, the samples more$"),
        (x, torch.cat([real, real]), rf"^the mask has {2 * N} rows, the samples {N}$"),
        ([batch], lambda batch: real[:3], r"^the mask of a batch has 3 rows, its samples 32$"),
    ]
    for samples, given, message in cases:
        with pytest.raises(CalibrationError, match=message):
            observe(model, samples, mask=given)
    with pytest.raises(CalibrationError, match=r"^the mask is square, \[7, 7\], and the model has layers with time first"):
        observe(Encoder(batch_first=False).eval(), [(sentences(16)[:7].transpose(0, 1), mask()[:7])], mask="~mask")


def test_a_mask_beside_observations_is_not_ignored() -> None:
    model, batch = Tagger().eval(), {"x": sentences(8), "attention_mask": ~mask()}
    seen = observe(model, [batch])
    for options in ({"mask": "attention_mask"}, {"forward": lambda m, b: m(**b)}):
        with pytest.raises(CalibrationError, match=r"^mask and forward belong to observe: these observations are made already$"):
            overq.quantize(model, seen, RECIPE, **options)
