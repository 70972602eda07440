"""Outlier channel splitting: the identities the paper proves, and worked splits."""

import numpy as np
import pytest
import torch
from method_cases import long_tailed

from overq.errors import InputError
from overq.methods.ocs import OCSActivations, OCSWeights, richest_in_outliers, splits
from overq.methods.uniform import Uniform
from overq.nn.weights import dequantize_weight, quantize_weight


def test_aware_halves_add_up_to_the_rounded_value():
    """arXiv 1901.09504, quantization-aware splitting: Q((v - 1/2)/2) + Q((v + 1/2)/2) = Q(v), which plain halves do not keep."""
    v = np.linspace(0, 29.9, 997).astype(np.float32)[:, None]
    aware = OCSActivations(4, ratio=0.5).fit(v, False, step=1)
    assert aware.channels == (0,)
    assert (aware(v) == np.floor(v + 0.5)).all()
    plain = OCSActivations(4, ratio=0.5, aware=False).fit(v, False, step=1)
    assert (np.abs(plain(v) - v) <= 1).all()
    assert (plain(v) % 2 == 0).all()


def test_split_channels_have_twice_the_range_and_the_others_stay():
    x = np.float32([[40, 3, 20, 16]] * 100)
    fitted = OCSActivations(4, ratio=0.25).fit(x, False, step=1)
    assert fitted.channels == (0,)
    assert fitted(x)[0].tolist() == [30, 3, 15, 15]
    signed = OCSActivations(4, ratio=0.25).fit(-x, True, step=1)
    assert signed(-x)[0].tolist() == [-16, -3, -8, -8]


def test_channels_are_chosen_by_their_number_of_outliers():
    x = np.ones((100, 5), np.float32)
    x[:4, 3], x[0, 1] = 9, 50  # five values of 500 lie above the 99th percentile: four in lane 3, one in lane 1
    assert richest_in_outliers(x, 1) == (3,)
    assert richest_in_outliers(x, 2) == (1, 3)
    assert richest_in_outliers(np.ones((10, 3)), 2) == (0, 1)


def test_no_channel_split_is_plain_uniform_and_more_is_never_worse():
    x = long_tailed()
    assert (OCSActivations(4, 0).fit(x, False, 0.4)(x) == Uniform(4).fit(x, False, 0.4)(x)).all()
    errors = [float(((OCSActivations(4, ratio).fit(x, False)(x) - x) ** 2).sum()) for ratio in (0, 0.05, 0.2, 0.5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.7 * errors[0]


def test_wrong_number_of_lanes_is_refused():
    fitted = OCSActivations().fit(long_tailed(), False)
    with pytest.raises(InputError, match="x has 44 lanes along axis 1, but was fitted to 45"):
        fitted(np.ones((3, 44), np.float32))


def test_splits_by_hand():
    """[inputs, outputs] magnitudes."""
    peaks = np.float32([[8, 1], [2, 6], [3, 3]])
    assert splits(peaks, 3, per_channel=False)[0] == [0, 1, 0]  # 8, then 6, then one of the two 4
    # per output channel: 8 -> 4 saves 64 - 16 and 6 -> 3 saves 36 - 9; then halving one of two 4 saves nothing
    parents, table = splits(peaks, 2, per_channel=True)
    assert parents == [0, 1]
    assert table.tolist() == [[4, 0.5], [1, 3], [3, 3], [4, 0.5], [1, 3]]
    # 8 -> 4 saves 48, for the copy keeps 4; 8.5 -> 4.25 saves 54
    assert splits(np.float32([[8, 0], [1, 8.5], [0, 4.25]]), 1, per_channel=True)[0] == [1]


@pytest.mark.parametrize("per_channel", [False, True])
def test_split_weights_sum_to_the_weight_on_a_finer_grid(per_channel):
    """Without clipping (8 bits), the copies add up to round(w / scale) · scale with the smaller scale that splitting allows."""
    w = np.random.default_rng(0).normal(size=(8, 20, 3, 3)).astype(np.float32)
    w[:, 5] *= 6
    q = OCSWeights(ratio=0.1, per_channel=per_channel).weights(w, 8)
    peaks = np.abs(w).max(axis=(2, 3)).T
    table = splits(peaks, 2, per_channel)[1]
    scale = (table.max(axis=0) if per_channel else np.full(8, table.max())) / np.float32(127)
    expected = np.floor(w / scale[:, None, None, None] + np.float32(0.5)) * scale[:, None, None, None]
    np.testing.assert_allclose(q, expected, rtol=1e-6)
    plain = Uniform().weights(w, 8)
    assert ((q - w) ** 2).sum() < 0.6 * ((plain - w) ** 2).sum()


def test_a_channel_can_be_split_again():
    w = np.float32([[64, 1, 1, 1]])
    q = OCSWeights(ratio=0.75, per_channel=False).weights(w, 4)  # 64 -> 16, 16, 16, 16
    assert q[0, 0] == pytest.approx(64, rel=0.01)
    assert splits(np.abs(w).T, 3, False)[0] == [0, 0, 4]


def test_weights_may_require_gradients():
    w = torch.nn.Parameter(torch.randn(4, 6))
    assert OCSWeights().weights(w, 8).shape == w.shape


@pytest.mark.parametrize("bits", [4, 8])
def test_shared_weights_are_the_front_ends(bits):
    w = torch.randn(7, 5, 3, 3, generator=torch.Generator().manual_seed(1))
    w[3] = 0
    assert torch.equal(Uniform().weights(w, bits), dequantize_weight(*quantize_weight(w, bits), w.dtype))
