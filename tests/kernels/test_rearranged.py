"""What second digits save in other orders of the same channels, against the errors of `overwrite` itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overq import Format, kernels
from overq.kernels import rearranged
from strategies import formats

STEP = 0.3


def channels(count: int, positions: int, fmt: Format, seed: int) -> np.ndarray:
    """float32 [K, M]: half of the values zero, ranges very different, signed where the format is."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, positions)) * np.exp(rng.standard_normal((count, 1)))
    return (x * (rng.random(x.shape) < 0.6) if fmt.signed else np.maximum(x, 0)).astype(np.float32)


def errors(x: np.ndarray, fmt: Format) -> np.ndarray:
    """Squared error on each lane of [..., L, M], in squared steps."""
    return np.square((kernels.get("auto", fmt).overwrite(x, STEP, fmt, -2) - x).astype(np.float64) / STEP).sum(-1)


@settings(max_examples=100, deadline=None)
@given(formats(max_evict=0), st.integers(1, 20), st.sampled_from([1, 63, 64, 65, 600]), st.integers(1, 5), st.integers(0, 99))
def test_one_digit_errors_less_what_is_saved_are_the_errors_of_overwrite(
    fmt: Format, lanes: int, positions: int, arrangements: int, seed: int
) -> None:
    x = channels(lanes + 2, positions, fmt, seed)
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(len(x))[:lanes] for _ in range(arrangements)])
    staged = rearranged.staged(x, STEP, fmt)
    found = staged.error[orders] - rearranged.saved(staged, orders, fmt.lanes or 0)
    wanted = errors(x[orders], fmt)
    assert np.allclose(found, wanted, rtol=1e-5, atol=1e-5 * staged.error.max())


@pytest.mark.parametrize("fmt", [Format(4, 4), Format(3, 3, signed=True)])
def test_rates_are_those_that_the_kernel_counts(fmt: Format) -> None:
    x = channels(6, 130, fmt, 1)
    staged = rearranged.staged(x, STEP, fmt)
    for row in range(6):
        counts = kernels.get("auto", fmt).overwrite_counted(x[row], STEP, fmt)[1]
        assert staged.outliers[row] == pytest.approx(counts.outlier_rate)
        assert staged.zeros[row] == pytest.approx(counts.zero_rate)
