from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from overq.nn.weights import dequantize_weight, quantize_weight


@given(st.integers(4, 8), st.integers(0, 2**31), st.integers(-30, 30))
def test_every_weight_is_within_half_a_step_and_the_largest_is_exact(bits: int, seed: int, exponent: int) -> None:
    weight = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    weight[1] = 0
    integers, scale = quantize_weight(weight, bits)
    assert integers.dtype == torch.int8
    assert integers.abs().amax((1, 2)).tolist() == [2 ** (bits - 1) - 1, 0, 2 ** (bits - 1) - 1]
    error = (dequantize_weight(integers, scale, torch.float32) - weight).abs()
    assert (error <= scale.view(-1, 1, 1) * 0.5000001).all()
    assert scale[1] == 1
