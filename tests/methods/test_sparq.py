"""SPARQ against its description: worked windows, and a slow reference that walks one pair at a time."""

import itertools

import numpy as np
import pytest
from method_cases import long_tailed

from overq.errors import FormatError
from overq.methods.sparq import SPARQ


def on_integers(values, **settings):
    """SPARQ of 8-bit integers (step 1)."""
    x = np.float32([values])
    return [int(v) for v in SPARQ(**settings).fit(x, bool((x < 0).any()), step=1)(x)[0]]


@pytest.mark.parametrize(("options", "trimmed", "rounded"), [(5, 0b11010, 0b11100), (3, 0b11000, 0b11100), (2, 0b10000, 0b100000)])
def test_fewer_window_placements_more_noise(options, trimmed, rounded):
    """27 = 00011011: 5opt keeps bits 4-1, 3opt bits 5-2, 2opt bits 7-4 (arXiv 2105.11010, section 3.1 and figure 1's idea)."""
    assert on_integers([27, 1], options=options, rounding=False)[0] == trimmed
    assert on_integers([27, 1], options=options, rounding=True)[0] == rounded


def test_allowed_placements():
    """The paper's configurations: 5opt, 3opt, 2opt of 4 bits, 6opt of 3 bits, 7opt of 2 bits."""
    shifts = {(4, 5): [0, 1, 2, 3, 4], (4, 3): [0, 2, 4], (4, 2): [0, 4], (3, 6): [0, 1, 2, 3, 4, 5], (2, 7): [0, 1, 2, 3, 4, 5, 6]}
    for (bits, options), expected in shifts.items():
        assert list(SPARQ(bits, options).shifts) == expected
    assert SPARQ(4).shifts == SPARQ(4, 5).shifts
    for bits, options in ((4, 4), (3, 2), (2, 3)):
        with pytest.raises(FormatError, match="windows of . bits do not lie evenly over 8 bits"):
            SPARQ(bits, options)


def test_small_values_are_exact_and_a_zero_neighbour_gives_all_bits():
    assert on_integers([15, 9, 0, 255, 201, 0, 0, 0]) == [15, 9, 0, 255, 201, 0, 0, 0]
    assert on_integers([0, 201], pairs=False) == [0, 208]
    assert on_integers([0, 201], pairs=False, rounding=False) == [0, 192]
    assert on_integers([1, 0, 201]) == [1, 0, 201]  # pairs are lanes 0-1 and 2-3: the last odd lane stands alone
    assert on_integers([1, 201, 0]) == [1, 208, 0]  # not with the zero after it


def test_rounding_carries_into_the_next_window_and_saturates_at_the_top():
    assert on_integers([31, 1]) == [32, 1]
    assert on_integers([255, 1]) == [240, 1]
    assert on_integers([247, 1]) == [240, 1]


def spelled(size, shifts):
    return {k << s for k in range(1 << size) for s in shifts}


@pytest.mark.parametrize("rounding", [False, True])
@pytest.mark.parametrize(("bits", "options"), [(4, 5), (4, 3), (4, 2), (3, 6), (2, 7)])
def test_every_value_beside_a_nonzero(bits, options, rounding):
    """All 256 values: the result is spelled by an allowed window; trimmed, it is the greatest one not above; with every placement
    allowed, the rounded one is the nearest of all (ties up)."""
    can = spelled(bits, SPARQ(bits, options).shifts)
    for value in range(1, 256):
        got = on_integers([value, 1], bits=bits, options=options, rounding=rounding)[0]
        assert got in can
        if not rounding:
            assert got == max(c for c in can if c <= value)
        elif options == 9 - bits:
            assert got == max(can, key=lambda c, v=value: (-abs(c - v), c))


def reference(pair, bits):
    """vSPARQ for one pair, 8-bit unsigned, trimming."""
    a, b = pair
    if a == 0 or b == 0:
        budget = min(8, 2 * bits)
        return [max(c for c in spelled(budget, range(9 - budget)) if c <= v) for v in pair]
    return [max(c for c in spelled(bits, range(9 - bits)) if c <= v) for v in pair]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_pairs_against_the_slow_reference(bits):
    some = [0, 1, 2, 5, 16, 17, 31, 100, 128, 200, 255]
    for pair in itertools.product(some, repeat=2):
        assert on_integers(list(pair), bits=bits, rounding=False) == reference(pair, bits)


def test_signed_values_give_one_bit_to_the_sign():
    """7-bit magnitudes: -27 keeps 3 bits, 11|011; alone it keeps all."""
    assert on_integers([-27, 1, -27, 0, -127, 3], rounding=False) == [-24, 1, -27, 0, -112, 3]


def test_error_orders_as_in_the_paper():
    """More placements, rounding and pairs each lower the error (the order of the paper's accuracy tables)."""
    x = long_tailed()

    def error(**settings):
        return float(((SPARQ(4, **settings).fit(x, False)(x) - x) ** 2).sum())

    trimmed = [error(options=o, pairs=False, rounding=False) for o in (5, 3, 2)]
    assert trimmed == sorted(trimmed)
    assert error(pairs=False) < trimmed[0]
    assert error() < error(pairs=False)
