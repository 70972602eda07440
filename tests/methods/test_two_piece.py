"""PWLQ, BiScaled and high-precision outliers: worked values, and PWLQ's published breakpoints."""

import math

import numpy as np
import pytest
from method_cases import long_tailed

from overq.methods.biscaled import BiScaled, TwoScales
from overq.methods.highprecision import HighPrecision
from overq.methods.pwlq import PWLQ, TwoPiece


def test_pwlq_by_hand():
    """3 bits unsigned: centre 0 … 7 in steps of 1, tail 7, 11, 15 … 35."""
    fitted = TwoPiece(PWLQ(3), False, 1.0, 4.0)
    assert fitted(np.float32([0.4, 0.5, 6.6, 7, 8, 9, 10, 13.1, 35, 99, -3])).tolist() == [0, 1, 7, 7, 7, 11, 11, 15, 35, 35, 0]
    signed = TwoPiece(PWLQ(3), True, 1.0, 4.0)  # one bit for the sign: centre 0 … 3, tail 3, 7, 11, 15
    assert signed(np.float32([-2.6, -3, -4, -5.5, 16, -80])).tolist() == [-3, -3, -3, -7, 15, -15]


def best_breakpoint(x, greatest, bits=8):
    points = np.arange(0.02, 0.5, 0.005) * greatest
    top = PWLQ(bits).top(True)
    errors = [((TwoPiece(PWLQ(bits), True, p / top, (greatest - p) / top)(x) - x) ** 2).sum() for p in points]
    return points[int(np.argmin(errors))]


@pytest.mark.parametrize("greatest", [3, 4, 5])
def test_best_breakpoint_of_a_gaussian_is_the_published_one(greatest):
    """arXiv 2002.00104, section 3: for a unit Gaussian cut at m, p ≈ ln(0.8614 m + 0.6079)."""
    x = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    x = x[np.abs(x) < greatest]
    assert best_breakpoint(x, greatest) == pytest.approx(math.log(0.8614 * greatest + 0.6079), rel=0.05)


@pytest.mark.parametrize("greatest", [4, 6])
def test_best_breakpoint_of_a_laplacian_is_the_published_one(greatest):
    """The same for a Laplacian of unit variance: p ≈ 0.8030 √m - 0.3167."""
    x = (np.random.default_rng(0).laplace(size=200_000) / math.sqrt(2)).astype(np.float32)
    x = x[np.abs(x) < greatest]
    assert best_breakpoint(x, greatest) == pytest.approx(0.8030 * math.sqrt(greatest) - 0.3167, rel=0.05)


def test_biscaled_by_hand():
    """3 bits unsigned, wide step 4: fine 0 … 7, beyond it 8, 12 … 28."""
    fitted = TwoScales(BiScaled(3), False, 1.0, 2)
    assert fitted(np.float32([0.5, 7.4, 7.5, 9, 10, 13.9, 27, 100])).tolist() == [1, 7, 8, 8, 12, 12, 28, 28]
    signed = TwoScales(BiScaled(3), True, 1.0, 2)
    assert signed(np.float32([-3.4, -3.5, -100])).tolist() == [-3, -4, -12]


def test_high_precision_keeps_the_asked_fraction_as_it_is():
    x = long_tailed(400, 50)
    for fraction in (0.01, 0.03, 0.2):
        fitted = HighPrecision(4, fraction).fit(x, False)
        kept = fitted.method.outliers(x, fitted)
        assert kept.mean() == pytest.approx(fraction, abs=0.001)
        assert (fitted(x)[kept] == x[kept]).all()
        rest = fitted(x)[~kept]
        assert len(np.unique(rest)) <= 16
    none = HighPrecision(4, 0).fit(x, False)
    assert not none.method.outliers(x, none).any()


def test_high_precision_is_the_ceiling_among_the_outlier_methods():
    x = long_tailed()
    ceiling = HighPrecision(4, 0.05).fit(x, False)
    for method in (PWLQ(4), BiScaled(4)):
        assert ((ceiling(x) - x) ** 2).sum() < ((method.fit(x, False)(x) - x) ** 2).sum()
