"""What travels with a quantized layer: casts, devices, state_dicts."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import overq
from overq import Format, Recipe
from overq.errors import InputError
from overq.methods import METHODS

X = torch.randn(8, 8, 9, 9, generator=torch.Generator().manual_seed(0))
ARRANGED = Recipe(Format(3, 4), 5, first=None, last=None, reorder=True, equalize=0.5, bias_correction=True)
PLAIN = Recipe(Format(3, 4), first=None, last=None)


def network(gain: float = 1.0, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=False)).eval()
    model[0].weight.data.mul_(gain)
    model[2].weight.data.mul_(1 / gain)
    return model


def test_casts_leave_scales_integers_and_orders_alone() -> None:
    q = overq.quantize(network(), X, ARRANGED)
    before = {key: value.clone() for key, value in q.state_dict().items() if "bias" not in key}
    spelled = q[0].weight_integers.double() * q[0].weight_scale.double().reshape(-1, 1, 1, 1)
    for cast in (torch.float16, torch.bfloat16, torch.float64):
        for other in (copy.deepcopy(q).to(cast), copy.deepcopy(q).type(cast), copy.deepcopy(q).half().to(cast)):
            kept = other.state_dict()
            assert all(torch.equal(kept[key], value) and kept[key].dtype == value.dtype for key, value in before.items())
            assert other[0].weight.dtype == other[0].bias.dtype == cast
            wanted = spelled if cast == torch.float64 else q[0].weight.to(cast)
            assert torch.equal(other[0].weight, wanted), "made from the integers, not rounded twice"
            assert other[0].unchanged()


def test_in_float64_no_order_of_additions_matters() -> None:
    """Inputs are E · step / 2^f unrounded, of the same integers E as in float32."""
    for fmt in (Format(3, 4), Format(4, 3, lanes=3), Format.plain(4)):
        q = overq.quantize(network(), X, Recipe(fmt, first=None, last=None))
        layer, wide = q[0], copy.deepcopy(q).double()[0]
        quotient = wide.quantize_input(X.double()) / (float(np.float32(layer.step / (1 << layer.format.fraction_bits))))
        assert torch.equal(quotient, quotient.round())
        assert torch.allclose(wide.quantize_input(X.double()), layer.quantize_input(X).double(), rtol=1e-6, atol=0)


def test_there_and_back_is_exact_but_for_the_biases() -> None:
    q = overq.quantize(network(), X, PLAIN)
    back = copy.deepcopy(q).half().bfloat16().float()
    assert torch.equal(back(X), q(X))


@pytest.mark.parametrize("gain", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_cast_and_saved_is_what_is_loaded(tmp_path: Path, gain: float, dtype: torch.dtype) -> None:
    model = network(gain)
    for recipe in (PLAIN, ARRANGED):
        q = overq.quantize(model, X, recipe).to(dtype)
        overq.save(q, tmp_path / "m.safetensors")
        back = overq.load(tmp_path / "m.safetensors", copy.deepcopy(model).to(dtype))
        assert torch.equal(back(X.to(dtype)), q(X.to(dtype)))


def test_moving_to_meta_and_to_empty_does_not_fail() -> None:
    q = overq.quantize(network(), X, ARRANGED)
    assert copy.deepcopy(q).to("meta")[0].weight_scale.is_meta
    assert copy.deepcopy(q).to_empty(device="cpu")[0].weight_scale.dtype == torch.float32


@pytest.mark.parametrize("recipe", [PLAIN, ARRANGED, *(Recipe(METHODS[name](), first=None, last=None) for name in METHODS)])
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_brings_integers_scales_steps_and_all(recipe: Recipe, assign: bool) -> None:
    one, other = overq.quantize(network(), X, recipe), overq.quantize(network(seed=1), 3 * X, recipe)
    assert not torch.equal(one(X), other(X))
    report = overq.summary(one).layers[0]
    other.load_state_dict({key: value.clone() for key, value in one.state_dict().items()}, assign=assign)
    assert torch.equal(other(X), one(X))
    assert overq.summary(other).layers[0].step == report.step
    assert "step from a state_dict" in overq.summary(other).layers[0].note or report.step is None
    other.half().load_state_dict(one.state_dict())
    assert torch.equal(other(X.half()), copy.deepcopy(one).half()(X.half()))


def test_a_state_dict_is_plain_tensors_that_any_file_holds(tmp_path: Path) -> None:
    one, other = overq.quantize(network(), X, ARRANGED), overq.quantize(network(seed=1), 3 * X, ARRANGED)
    save_file(one.state_dict(), tmp_path / "state.safetensors")
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert torch.equal(other(X), one(X))
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other(X), one(X))
    assert not any(key.endswith("weight") for key in one.state_dict())


REFUSED = {
    "bits": (PLAIN.with_(method=Format(4, 4)), "OverQ A4 .* this model OverQ A3"),
    "policy": (PLAIN.with_(method=Format(3, 4, policy="largest")), "largest.* this model OverQ A3"),
    "plain": (PLAIN.with_(method=Format.plain(3)), "uniform A3, unsigned, W8, no bias, this model OverQ A3"),
    "rival": (PLAIN.with_(method=METHODS["olive"]()), "OliVe A4"),
    "weight bits": (PLAIN.with_(weight_bits=4), "W4, no bias, this model .* W8, no bias"),
    "order": (PLAIN.with_(reorder=True), "lane_order"),
    "scale": (PLAIN.with_(equalize=0.5), "input_scale"),
    "bias": (PLAIN.with_(bias_correction=True), "W8, this model .* W8, no bias"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("strict", [True, False])
def test_a_state_dict_of_another_kind_is_refused_by_name_and_nothing_is_loaded(kind: str, strict: bool) -> None:
    recipe, message = REFUSED[kind]
    mixed = recipe.with_(overrides=(("0", PLAIN.default),))
    q = overq.quantize(network(), X, PLAIN)
    wanted = q(X)
    state = overq.quantize(network(seed=1), X, mixed).state_dict()
    name = "0" if kind == "bias" else "2"
    with pytest.raises(InputError, match=rf"^layer '{name}': the state_dict holds .*{message}.*; quantize it by the same recipe first$"):
        q.load_state_dict(state, strict=strict)
    assert torch.equal(q(X), wanted)
    with pytest.raises(InputError, match=f"^layer '0.{name}'"):
        nn.Sequential(q).load_state_dict({f"0.{key}": value for key, value in state.items()}, strict=strict)
    assert torch.equal(q(X), wanted)


def test_a_float_state_dict_is_refused_and_another_sign_too() -> None:
    q = overq.quantize(network(), X, PLAIN)
    wanted = q(X)
    with pytest.raises(InputError, match=r"^layer '0': the state_dict is not of a quantized layer; it has 0\.weight$"):
        q.load_state_dict(network().state_dict(), strict=False)
    positive = overq.quantize(network(), X.abs(), PLAIN)
    with pytest.raises(InputError, match="OverQ A3 .* unsigned, .* this model .* signed"):
        q.load_state_dict(positive.state_dict())
    assert torch.equal(q(X), wanted)


@pytest.mark.parametrize("damage", [b"{", b"[1]", b'{"input": 3}', b"\xff\xfe"])
def test_a_damaged_extra_state_is_refused(damage: bytes) -> None:
    q = overq.quantize(network(), X, PLAIN)
    state = q.state_dict() | {"0._extra_state": torch.frombuffer(bytearray(damage), dtype=torch.uint8)}
    with pytest.raises(InputError, match="^layer '0': its extra state is not one of a quantized layer: "):
        q.load_state_dict(state)


def test_a_part_of_a_state_dict_loads_that_part() -> None:
    one, other = overq.quantize(network(), X, PLAIN), overq.quantize(network(seed=1), 3 * X, PLAIN)
    part = {key: value for key, value in one.state_dict().items() if key.startswith("2.")}
    before = other[0](X)
    other.load_state_dict(part, strict=False)
    assert torch.equal(other[0](X), before)
    assert torch.equal(other[2](X), one[2](X))
    other[0].load_state_dict(one[0].state_dict())
    assert torch.equal(other(X), one(X))
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(part)
