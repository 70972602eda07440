"""MX block formats against an outside implementation of the element and scale types (ml_dtypes), and the published limits."""

import numpy as np
import pytest

from overq.methods.mx import ELEMENTS, MX

ml_dtypes = pytest.importorskip("ml_dtypes", reason="the outside oracle of the element types is not installed")

FLOATS = {
    "fp4": ml_dtypes.float4_e2m1fn,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
}


def convert(element, rows, signed=True):
    return MX(element).fit(np.ones((1, 1), np.float32), signed)(np.asarray(rows, np.float32))


def oracle(element, blocks):
    """Section 6.3 of the specification, block by block: [blocks, 32] float32."""
    greatest = int(np.log2(float(ml_dtypes.finfo(FLOATS[element]).max)))
    result = []
    for block in blocks.astype(np.float64):
        largest = np.abs(block).max()
        k = max(-127, min(127, int(np.frexp(largest)[1]) - 1 - greatest)) if largest else -127
        scale = float(np.float32(2.0**k).astype(ml_dtypes.float8_e8m0fnu))
        most = float(ml_dtypes.finfo(FLOATS[element]).max)
        scaled = np.clip(block / scale, -most, most).astype(np.float32)
        result.append(scaled.astype(FLOATS[element]).astype(np.float64) * scale)
    return np.array(result, np.float32)


@pytest.mark.parametrize("spread", [0, 1, 4])
@pytest.mark.parametrize("element", FLOATS)
def test_float_elements_equal_the_outside_types(element, spread):
    rng = np.random.default_rng(spread)
    blocks = (rng.normal(size=(400, 32)) * np.exp2(rng.normal(size=(400, 32)) * spread)).astype(np.float32)
    blocks[0], blocks[1] = 0, 2.0**-140  # a block of zeros, a block of subnormal numbers
    blocks[2] *= np.float32(2.0**100)
    blocks[3] *= np.float32(2.0**-125) / np.abs(blocks[3]).max()  # the least scale there is
    assert np.array_equal(convert(element, blocks), oracle(element, blocks))


@pytest.mark.parametrize("element", FLOATS)
def test_every_element_value_and_every_midpoint(element):
    """Beside a value that fixes the scale to 1, all numbers of the type are exact, and midpoints go to even."""
    values = np.arange(2 ** ELEMENTS[element].bits, dtype=np.uint8).view(FLOATS[element]).astype(np.float32)
    values = np.unique(values[np.isfinite(values)])
    points = np.concatenate([values, (values[1:] + values[:-1]) / 2])
    anchor = np.float32(2.0 ** ELEMENTS[element].greatest)
    rows = np.stack([points, np.full_like(points, anchor)], axis=1)
    assert np.array_equal(convert(element, rows)[:, 0], points.astype(FLOATS[element]).astype(np.float32))


def test_published_limits():
    """Table of the specification: greatest numbers and least subnormals of each type."""
    for element, kind in FLOATS.items():
        assert ELEMENTS[element].most == ml_dtypes.finfo(kind).max
        assert 2.0 ** (ELEMENTS[element].least - ELEMENTS[element].mantissa) == ml_dtypes.finfo(kind).smallest_subnormal
    assert ELEMENTS["int8"].most == 1 + 63 / 64


def test_integer_elements_by_hand():
    """MXINT8: multiples of 2^-6 of the block's power of two, at most 1 + 63/64 of it."""
    assert convert("int8", [1.999, 1 / 64, 1.5 / 64, 2.5 / 64, -1]).tolist() == [127 / 64, 1 / 64, 2 / 64, 2 / 64, -1]
    assert convert("int4", [[7.9, 0.4, 0.5, 1.5, -3.4]]).tolist() == [[7, 0, 0, 2, -3]]


def test_blocks_do_not_see_each_other_and_the_last_may_be_short():
    x = np.ones((1, 70), np.float32) * 0.1
    x[0, 40] = 1000
    y = convert("fp4", x)
    assert (y[0, :32] == y[0, 64:][0]).all()
    assert y[0, 0] == 0.09375  # 1.5 · 2^-4
    assert not y[0, 32:40].any()
    assert y[0, 40] == 768  # 6 · 2^7: the scale follows the power of two below the maximum, so 7.8 · 2^7 saturates
    assert not convert("fp4", -x, signed=False).any()
