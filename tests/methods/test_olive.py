"""OliVe against its description: the published number tables, worked pairs, and a slow reference."""

import numpy as np
import pytest

from overq.methods.olive import OliVe


def on_units(values, bits=4, signed=True):
    return OliVe(bits).fit(np.ones((1, 1), np.float32), signed, step=1)(np.float32(values)).tolist()


def outliers(bits, signed):
    """All magnitudes of the outlier type, by the paper's formula (2^m + mantissa) << (exponent + bias), code 0 unused."""
    n = OliVe(bits).numbers(signed)
    bias = n.exponent - n.mantissa
    exponents = 4 if bits == 8 else 2
    values = [((1 << n.mantissa) + m) << (e + bias) for e in range(2**exponents) for m in range(2**n.mantissa)]
    return [v for v in values[1:] if v <= 2**15]


def test_published_tables():
    """int4 with E2M1, bias 2: the outlier values 12 … 96 of the paper (section 3.3); int8 with E4M3 starts above 127 (bias 4)."""
    assert outliers(4, True) == [12, 16, 24, 32, 48, 64, 96]
    assert OliVe(4).numbers(True) == (7, 1, 3, 12, 96)
    assert outliers(8, True)[:3] == [144, 160, 176]
    assert OliVe(8).numbers(True).greatest == 2**15


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(3, 9))
def test_the_outlier_type_starts_just_above_the_normal_one(bits, signed):
    numbers, values = OliVe(bits).numbers(signed), outliers(bits, signed)
    assert (numbers.least, numbers.greatest) == (values[0], values[-1])
    assert values[0] / 2 <= numbers.normal < values[0]
    assert on_units([v for v in values for v in (v, 0)], bits, signed) == [v for v in values for v in (v, 0)]


def test_worked_pairs():
    assert on_units([3, -5]) == [3, -5]  # two normal values
    assert on_units([40, 5, -5, -90]) == [32, 0, 0, -96]  # an outlier sacrifices its neighbour, on either side
    assert on_units([50, -60]) == [0, -64]  # of two outliers the greater survives
    assert on_units([-50, 50]) == [-48, 0]  # on a tie the first
    assert on_units([9.5, 5]) == [7, 5]  # as near to 7 as to 12: stays normal
    assert on_units([9.75, 5]) == [12, 0]
    assert on_units([1000, 1]) == [96, 0]
    assert on_units([1, 2, 40]) == [1, 2, 32]  # a last odd lane has room for an outlier


def slow(row, bits, signed):
    numbers, values = OliVe(bits).numbers(signed), outliers(bits, signed)

    def normal(v):
        return np.sign(v) * min(np.floor(abs(v) + 0.5), numbers.normal)

    def large(v):
        return np.sign(v) * min(values, key=lambda u: (abs(u - abs(v)), values.index(u) % 2 == 0))

    result = []
    for a, b in zip(row[::2], row[1::2], strict=True):
        out = [abs(v) > (numbers.normal + numbers.least) / 2 for v in (a, b)]
        if out[0] and abs(a) >= abs(b):
            result += [large(a), 0]
        elif out[1]:
            result += [0, large(b)]
        else:
            result += [normal(a), normal(b)]
    return result


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [3, 4, 5, 6, 8])
def test_against_the_slow_reference(bits, signed):
    rng = np.random.default_rng(bits)
    row = np.float32(rng.laplace(size=400) * rng.choice([1, 5, 25, 200], size=400))
    row = row if signed else np.maximum(row, 0)
    assert on_units(row, bits, signed) == slow(row.tolist(), bits, signed)
