"""NVFP4, MX+, Tender and Atom: worked by hand from their descriptions."""

import numpy as np
import pytest

from overq.errors import FormatError, InputError
from overq.methods import METHODS, Dynamic
from overq.methods.atom import Atom
from overq.methods.mxplus import MXPlus
from overq.methods.nvfp4 import NVFP4
from overq.methods.tender import Tender


def row(*values):
    return np.array([values], np.float32)


def test_nvfp4_scales_a_block_by_its_greatest_over_six_in_e4m3():
    fitted = NVFP4(4).fit(row(1, 1, 1, 1), True, step=1.0)
    assert fitted(row(6, 5, -2.4, 0.3)).tolist() == [[6, 4, -2, 0.5]]  # scale 1; 5 is between 4 and 6, ties to even
    assert fitted(row(12, 1, 0, -12)).tolist() == [[12, 1, 0, -12]]  # scale 2
    assert fitted(row(7, 0, 0, 0)).tolist() == [[6.75, 0, 0, 0]]  # 7/6 is nearest to 1.125: three fraction bits
    assert fitted(row(6, 6, 6, 6, 1.5, 0.75, 0.25, 0)).tolist() == [[6, 6, 6, 6, 1.5, 0.75, 0.25, 0]]  # two blocks, scales 1 and 1/4
    assert fitted(row(1e9, 1, 0, 0)).tolist() == [[6 * 448, 0, 0, 0]]
    small = NVFP4(4).fit(row(1, 1, 1, 1), True, step=512.0)
    assert small(row(0.5, 0.1, 0, 6)).tolist() == [[0.5, 0, 0, 6]]  # the least scale, 2^-9


def test_nvfp4_costs_half_a_bit_of_scales_and_may_have_a_step_a_vector():
    x = np.random.default_rng(0).standard_t(3, (40, 64)).astype(np.float32)
    assert NVFP4().fit(x, True).cost(x).bits == 4.5
    fitted = Dynamic(NVFP4(), "max").fit(x, True)
    assert fitted.cost(x).bits == 4.75
    scaled = x * np.float32(4.0) ** np.arange(-20, 20, dtype=np.float32)[:, None]
    assert np.allclose(fitted(scaled), fitted(x) * np.float32(4.0) ** np.arange(-20, 20, dtype=np.float32)[:, None])
    assert np.square(fitted(x) - x).sum() < 0.02 * np.square(x).sum()


def test_mx_plus_gives_the_greatest_all_bits():
    """FP4: the shared exponent makes the greatest 4 to 8; as E0M3 it is 4, 4.5, … 7.5, where MXFP4 has 4 and 6."""
    fitted = MXPlus("fp4", 4).fit(row(1, 1, 1, 1), True)
    assert fitted(row(5.3, 5.1, -0.4, 3)).tolist() == [[5.5, 6, -0.5, 3]]
    assert fitted(row(-7.9, 1, 0.2, 0)).tolist() == [[-7.5, 1, 0, 0]]
    assert fitted(row(10.6, 2, 0, 0)).tolist() == [[11, 2, 0, 0]]  # everything doubled
    assert fitted(row(0, 0, 0, 0)).tolist() == [[0, 0, 0, 0]]
    assert MXPlus().fit(row(*range(32)), True).cost(row(*range(32))).bits == 4 + 13 / 32
    with pytest.raises(FormatError, match="must be a floating type"):
        MXPlus("int4")


def test_tender_halves_the_step_from_group_to_group():
    sample = np.array([[8.0, 4.0, 4.1, 1.0, 0.1, 0.0]], np.float32)
    fitted = Tender(4, 4).fit(sample, True, step=1.0)
    assert fitted.shifts == (0, 1, 0, 3, 3, 3)  # 4 = 8/2 is in the second group, 4.1 in the first; the last takes the rest
    assert fitted(row(8, 3.2, 3.2, 0.33, 0.33, 5)).tolist() == [[7, 3, 3, 0.375, 0.375, 0.875]]
    assert fitted.cost(sample).bits == 4
    with pytest.raises(InputError, match="x has 3 lanes along axis 1, but was fitted to 6"):
        fitted(row(1, 2, 3))
    with pytest.raises(FormatError, match="knows channels of the whole vector"):
        Dynamic(Tender(), "max", 16)


def test_atom_keeps_the_richest_channels_in_eight_bits():
    sample = np.ones((3, 8), np.float32)
    sample[:, 5] = 100
    fitted = Atom(4, ratio=0.1, block=4, clip=1.0).fit(sample, True)
    assert fitted.channels == (5,)
    y = fitted(row(7, 3.4, -1, 0, 14, 127, 5, -14))
    assert y.tolist() == [[7, 3, -1, 0, 14, 127, 6, -14]]  # steps 1 and 2 of groups 0-3 and 4, 6, 7; 127 alone
    assert Atom(4, ratio=0.1, block=4).fit(sample, True)(row(7, 0, 0, 0, 0, 0, 0, 0))[0, 0] == pytest.approx(6.3)  # clipped at 0.9
    assert fitted.cost(sample).bits == (7 * 4 + 8) / 8 + 3 * 16 / 8
    with pytest.raises(InputError, match="has no step; 1.0 was given"):
        Atom().fit(sample, True, step=1.0)


def test_all_are_methods():
    assert {"nvfp4", "mx_plus", "tender", "atom"} <= METHODS.keys()
