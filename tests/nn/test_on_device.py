"""Calibration of a model whose activations lie on a device: counted there, and the same in every bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import overq
from overq.calib.observed import BINS, SAMPLE_VALUES
from overq.nn import watch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_on_a_device_are_counted_there_as_numba_counts_them(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(dtype)
    x = torch.randn(40, 3, 24, 24, dtype=dtype)
    here = overq.observe(model, x)
    moved: list[int] = []

    def to_host(tensor: torch.Tensor) -> torch.Tensor:
        moved.append(tensor.numel())
        return tensor

    monkeypatch.setattr(watch, "on_host", lambda x: False)
    monkeypatch.setattr(torch.Tensor, "cpu", to_host)
    there = overq.observe(model, x)
    for name, one in here.layers.items():
        other = there.layers[name]
        assert (one.low, one.high, one.values, one.limit, one.batches, one.moving) == (
            (other.low, other.high, other.values, other.limit, other.batches, other.moving)
        ), name
        for field in ("histogram", "sample", "keys"):
            assert np.array_equal(getattr(one, field), getattr(other, field)), (name, field)
    assert x[:32].numel() * 64 // 3 > max(moved)  # what the second layer sees at once did not come here
    assert max(moved) <= max(2 * BINS, SAMPLE_VALUES)


def test_a_value_that_is_not_finite_is_found_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "on_host", lambda x: False)
    with pytest.raises(overq.OverqError, match=r"layer '': 2 of 32 input values are NaN or infinite; calibrate with finite samples"):
        overq.observe(nn.Linear(8, 2), torch.tensor([float("nan"), float("inf"), *range(30)]).reshape(4, 8))
