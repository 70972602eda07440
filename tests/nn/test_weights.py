from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from overq.nn.weights import dequantize_weight, quantize_weight


@given(st.integers(0, 2**31), st.integers(-30, 30))
def test_every_8_bit_weight_is_within_half_a_step_and_the_largest_is_exact(seed: int, exponent: int) -> None:
    weight = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    weight[1] = 0
    integers, scale = quantize_weight(weight, 8)
    assert integers.dtype == torch.int8
    assert integers.abs().amax((1, 2)).tolist() == [127, 0, 127]
    error = (dequantize_weight(integers, scale, torch.float32) - weight).abs()
    assert (error <= scale.view(-1, 1, 1) * 0.5000001).all()
    assert scale[1] == 1


@given(st.integers(4, 7), st.integers(0, 2**31), st.integers(-30, 30))
def test_fewer_bits_clip_where_that_lowers_the_error(bits: int, seed: int, exponent: int) -> None:
    """Rounded to the scale that clips nothing, no channel is better; and scaling the weights by a power of two scales all the rest."""
    most = 2 ** (bits - 1) - 1
    weight = torch.randn(3, 40, 3, generator=torch.Generator().manual_seed(seed)) ** 3
    weight[1] = 0
    integers, scale = quantize_weight(weight, bits)
    assert integers.abs().amax() <= most
    whole = weight.abs().amax((1, 2), keepdim=True) / most
    whole[1] = 1
    kept = torch.round(weight / whole) * whole
    error = (dequantize_weight(integers, scale, torch.float32) - weight).double().square().sum((1, 2))
    assert (error <= (kept - weight).double().square().sum((1, 2)) * 1.000001).all()
    assert (scale <= whole.flatten()).all()
    shifted, shifted_scale = quantize_weight(weight * 2.0**exponent, bits)
    assert torch.equal(shifted, integers)
    assert torch.equal(shifted_scale[::2], scale[::2] * 2.0**exponent)


def test_one_far_weight_does_not_set_the_scale_of_many() -> None:
    weight = torch.cat([torch.linspace(-1, 1, 1200), torch.tensor([3.0])]).reshape(1, -1)
    assert quantize_weight(weight, 4)[1].item() * 7 == pytest.approx(1.1, abs=0.15)
    assert quantize_weight(weight, 8)[1].item() * 127 == pytest.approx(3)
