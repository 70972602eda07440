"""Counting is what NumPy counts, whatever the memory layout and however many values."""

from __future__ import annotations

import numpy as np
import pytest

from overq.kernels import histogram


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 1000, 4099])
@pytest.mark.parametrize("part", [1 << 24, 64])
def test_counts_are_numpy_s(size: int, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram, "PART", part)
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    x[::2] = 0
    x = np.concatenate([x, np.float32([-8.0, np.nextafter(np.float32(8), np.float32(0)), -0.0, 1e-40])])
    factor = np.float32(32 / 8.0)
    wanted = np.bincount(np.floor(x * factor).astype(np.int64) + 32, minlength=64)
    assert np.array_equal(histogram.count(x, factor, 64), wanted)


def test_any_layout_is_counted_once() -> None:
    x = np.arange(-24, 24, dtype=np.float32).reshape(2, 3, 8)
    wanted = histogram.count(x, np.float32(1), 64)
    assert wanted.sum() == x.size
    for view in (x.transpose(2, 0, 1), x[::-1], np.asfortranarray(x)):
        assert np.array_equal(histogram.count(view, np.float32(1), 64), wanted)
