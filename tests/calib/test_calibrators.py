"""Laws of every calibration method, and what sets each apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overq import calib
from overq.calib import CALIBRATORS, Observed
from overq.calib.aciq import gauss_constant, laplace_constant
from overq.calib.observed import BINS
from overq.errors import FormatError
from overq.kernels import array
from overq.spec import Format

FORMATS = [Format.plain(4), Format(3, 4), Format(4, 2, policy="largest"), Format.plain(4, signed=True), Format(3, 4, signed=True)]


def observed(*parts: np.ndarray, seed: int = 0) -> Observed:
    """Parts [M, K], observed one after the other."""
    rng, seen = np.random.default_rng(seed), Observed()
    for part in parts:
        part = part.astype(np.float32)
        seen.add_values(part)
        keys = rng.random(len(part))
        chosen = seen.wanted(keys, part.shape[1])
        seen.add_sample(part[chosen], keys[chosen])
    return seen


def activations(rows: int = 400, lanes: int = 32, *, signed: bool = False, seed: int = 0) -> np.ndarray:
    """Half zeros, a long tail: what a ReLU leaves behind."""
    x = np.random.default_rng(seed).standard_t(4, (rows, lanes)).astype(np.float32)
    return x if signed else np.maximum(x, 0)


def error(x: np.ndarray, step: float, fmt: Format) -> float:
    return float(((array.overwrite(x, step, fmt) - x) ** 2).sum())


@pytest.mark.parametrize("name", CALIBRATORS)
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_a_step_is_a_positive_float32(name: str, fmt: Format) -> None:
    constant = np.full((50, 8), 0.7)
    for x in (activations(signed=fmt.signed), np.zeros((50, 8)), constant, constant * 1e-20, constant * 1e20):
        step = calib.get(name)(observed(x), fmt)
        assert np.isfinite(step)
        assert step > 0
        assert step == np.float32(step)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_scaling_by_a_power_of_two_scales_the_step(name: str) -> None:
    x = activations()
    assert calib.get(name)(observed(8 * x), Format(4, 4)) == 8 * calib.get(name)(observed(x), Format(4, 4))


def test_max_clips_nothing_and_no_larger_than_needed() -> None:
    for fmt in FORMATS:
        x = activations(signed=fmt.signed)
        step = calib.get("max")(observed(x), fmt)
        assert fmt.digit_min * step <= x.min() + 1e-6
        assert x.max() <= fmt.digit_max * step * (1 + 1e-6)
        assert np.isclose(x.max(), fmt.digit_max * step) or np.isclose(x.min(), fmt.digit_min * step)


def test_percentile_clips_the_share_it_names() -> None:
    x = activations(4000)
    for percent in (90.0, 99.0, 99.9):
        step = calib.get(f"percentile:{percent}")(observed(x), Format.plain(4))
        assert np.mean(x <= 15 * step) == pytest.approx(percent / 100, abs=3e-4)
    assert calib.get("percentile:100")(observed(x), Format.plain(4)) == calib.get("max")(observed(x), Format.plain(4))


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_format_mse_finds_the_best_step_of_a_dense_grid(fmt: Format) -> None:
    x = activations(signed=fmt.signed)
    step = calib.get("format-mse")(observed(x), fmt)
    best = min(error(x, s, fmt) for s in np.geomspace(step / 8, step * 8, 1500))
    assert error(x, step, fmt) <= 1.01 * best


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_plain_mse_equals_format_mse_of_the_plain_format(bits: int) -> None:
    x, fmt = activations(), Format.plain(bits)
    histogram, kernel = (calib.get(name)(observed(x), fmt) for name in ("mse", "format-mse"))
    assert error(x, histogram, fmt) == pytest.approx(error(x, kernel, fmt), rel=0.02)


def test_the_best_step_is_smaller_with_overwrite() -> None:
    """The reason for format-aware calibration: a served outlier is not clipped, so a finer step pays."""
    seen = observed(activations())
    plain, ours = (calib.get("format-mse")(seen, fmt) for fmt in (Format.plain(3), Format(3, 4)))
    assert ours < 0.9 * plain


def test_a_histogram_of_single_values_cannot_tell_what_neighbours_allow() -> None:
    """Two tensors with the same values: zeros beside the outliers, or all in other vectors. Only the kernel sees the difference."""
    row = np.array([8, 0, 1, 0, 8, 0, 1, 0], np.float32)
    together = np.tile(row, (100, 1))
    apart = np.sort(together, axis=None).reshape(100, 8)
    fmt, seen = Format(2, 1), [observed(together), observed(apart)]
    assert calib.get("mse")(seen[0], fmt) == calib.get("mse")(seen[1], fmt)
    near, far = (calib.get("format-mse")(s, fmt) for s in seen)
    assert near < far
    assert error(together, near, fmt) < 0.01 * error(apart, far, fmt)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**31), min_size=2, max_size=4), st.integers(-20, 20))
def test_merging_two_observations_equals_one(seeds: list[int], exponent: int) -> None:
    parts = [activations(30, 8, signed=True, seed=seed) * np.float32(2.0 ** (exponent * i)) for i, seed in enumerate(seeds)]
    single, first, rest = Observed(), Observed(), Observed()
    rng = np.random.default_rng(1)
    for i, part in enumerate(parts):
        keys = rng.random(len(part))
        for seen in (single, first if i == 0 else rest):
            seen.add_values(part)
            seen.add_sample(part, keys)
    merged = first.merge(rest)
    assert (merged.low, merged.high, merged.values, merged.limit) == (single.low, single.high, single.values, single.limit)
    assert np.array_equal(merged.histogram, single.histogram)
    assert np.array_equal(merged.sample, single.sample)


def test_memory_stays_bounded_and_the_sample_is_uniform() -> None:
    seen, rng = Observed(), np.random.default_rng(0)
    lanes = 4096
    for batch in range(40):
        keys = rng.random(100)
        chosen = seen.wanted(keys, lanes)
        vectors = np.full((len(chosen), lanes), batch, np.float32)
        seen.add_values(vectors)
        seen.add_sample(vectors, keys[chosen])
        assert len(seen.sample) <= seen.room(lanes) == 128
    batches = seen.sample[:, 0]
    assert 12 < batches.mean() < 27  # of 0 … 39: neither the first nor the last batches only
    assert seen.histogram.size == 2 * BINS


def test_histogram_counts_every_value_in_its_bin() -> None:
    x = activations(signed=True)
    seen = observed(x[:100], x[100:] * 40)
    values = np.concatenate([x[:100], x[100:] * 40]).astype(np.float32)
    edges = np.arange(-BINS, BINS + 1) * (seen.limit / BINS)
    assert np.array_equal(seen.histogram, np.histogram(values, edges)[0])
    assert (seen.low, seen.high) == (values.min(), values.max())


def test_unknown_methods_are_refused_with_the_list() -> None:
    with pytest.raises(FormatError, match=r"^no calibration method 'median'; there are max, moving-max, percentile, std, mse, kl,"):
        calib.get("median")


def test_parameters_by_name() -> None:
    x = activations(4000)
    mean, deviation = float(x.mean()), float(x.std())
    assert calib.get("std:3")(observed(x), Format.plain(4)) == pytest.approx((mean + 3 * deviation) / 15, rel=1e-3)
    for wrong in ("std:0", "std:-1", "std:nan", "percentile:101"):
        with pytest.raises(FormatError):
            calib.get(wrong)
    with pytest.raises(FormatError, match=r"^the parameter of calibration 'std:x' must be a number, as in std:4$"):
        calib.get("std:x")
    with pytest.raises(FormatError, match="takes no parameter"):
        calib.get("kl:3")


def test_moving_max_forgets_one_odd_batch_and_merges_in_order() -> None:
    batches = [np.full((4, 8), peak) for peak in (1.0, 50.0, *[2.0] * 30)]
    expected = 0.0
    for batch in batches:
        expected = 0.9 * expected + 0.1 * float(batch.max())
    expected /= 1 - 0.9 ** len(batches)
    step = calib.get("moving-max")(observed(*batches), Format.plain(4))
    assert step == pytest.approx(expected / 15, rel=1e-6)
    assert step < 5 / 15
    merged = observed(*batches[:7]).merge(observed(*batches[7:]))
    assert merged.moving_extremes == pytest.approx(observed(*batches).moving_extremes, rel=1e-12)


def modelled_error(clip: float, bits: int, density: Callable[[np.ndarray], np.ndarray]) -> float:
    """D of the convention in `aciq`, by brute integration."""
    x = np.linspace(clip, clip + 40, 40_001)
    return float(2 * np.trapezoid((x - clip) ** 2 * density(x), x) + (2 * clip / 2**bits) ** 2 / 12)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_aciq_constants_minimize_the_model(bits: int) -> None:
    densities = {
        gauss_constant: lambda x: np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
        laplace_constant: lambda x: np.exp(-x) / 2,
    }
    for constant, density in densities.items():
        grid = np.linspace(0.5, 15, 2901)
        best = grid[int(np.argmin([modelled_error(a, bits, density) for a in grid]))]
        assert constant(bits) == pytest.approx(best, abs=0.006)


def test_aciq_constants_are_the_published_ones() -> None:
    """Banner et al.: Laplace 2.83, 3.89, 5.03 for 2, 3 and 4 bits (the second is cut, not rounded: 3.897)."""
    assert [laplace_constant(bits) for bits in (2, 3, 4)] == pytest.approx([2.83, 3.89, 5.03], abs=0.01)


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["gauss", "laplace"])
def test_aciq_is_near_the_best_step_for_its_own_density(name: str, bits: int, signed: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8000, 32)) if name == "gauss" else rng.laplace(size=(8000, 32))
    x = (x if signed else np.maximum(x, 0)).astype(np.float32)
    fmt = Format.plain(bits, signed=signed)
    seen = observed(x)
    closed, best = (error(x, calib.get(n)(seen, fmt), fmt) for n in (f"aciq-{name}", "format-mse"))
    assert closed <= 1.15 * best  # the model's grid is symmetric; the format's reaches one step less far above zero (1.136 at 3 bits)


def test_kl_clips_a_far_outlier_but_not_a_dense_tail() -> None:
    uniform = np.random.default_rng(0).uniform(0, 1, (4000, 32))
    fmt = Format.plain(4)
    assert calib.get("kl")(observed(uniform), fmt) * 15 > 0.9
    uniform[0, 0] = 100.0
    assert calib.get("kl")(observed(uniform), fmt) * 15 < 3


def test_output_mse_follows_the_channels_that_weigh() -> None:
    """Channel 0 has long tails and the others short ones: the step depends on which of them the weights read."""
    x = activations(2000, 8)
    x[:, 0] *= 20
    fmt, seen = Format.plain(4), observed(x)
    tail, rest = np.zeros((1, 8)), np.ones((1, 8))
    tail[0, 0], rest[0, 0] = 1, 0
    assert calib.get("output-mse", rest)(seen, fmt) < 0.3 * calib.get("output-mse", tail)(seen, fmt)
    flat = calib.get("output-mse", np.eye(8))(seen, fmt)  # orthonormal weights: the output's error is the input's
    assert flat == pytest.approx(calib.get("format-mse")(seen, fmt), rel=0.03)
    with pytest.raises(FormatError, match=r"^calibration 'output-mse' needs the layer's weight"):
        calib.get("output-mse")(seen, fmt)
