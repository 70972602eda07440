"""The accumulator: wide enough for everything, and not a bit wider than a worst case needs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overq import Format
from overq.errors import InputError
from overq.spec import Lane, State, accumulator_bits, dot, effective, encode
from overq.spec.dot import contribution, source
from strategies import formats


@given(st.data())
def test_no_partial_sum_overflows(data: st.DataObject) -> None:
    fmt = data.draw(formats(max_bits=5, max_cascade=4)).with_(lanes=None)
    row = data.draw(
        st.lists(st.one_of(st.just(0), st.sampled_from([fmt.t_min, fmt.t_max]), st.integers(fmt.t_min, fmt.t_max)), min_size=1, max_size=9)
    )
    weights = data.draw(st.lists(st.sampled_from([-128, 127, 1, 0]), min_size=len(row), max_size=len(row)))
    bits = accumulator_bits(fmt, 8, len(row))
    total = 0
    for i, (digit, state) in enumerate(encode(row, fmt)):  # in the order the array adds, with its fraction bits
        total += contribution(digit, state, fmt) * weights[source(i, state)]
        assert -(1 << (bits - 1)) <= total < 1 << (bits - 1)


@pytest.mark.parametrize(
    "fmt",
    [
        Format.plain(4),
        Format(4, 4, 4, 0),
        Format(3, 2, 3, 3),
        Format(4, 4, 4, 4, signed=True),
        Format(4, 4, 2, 1),
        Format(4, 1, 2, 3, signed=True),
    ],
    ids=lambda fmt: fmt.label,
)
def test_one_bit_less_would_overflow(fmt: Format) -> None:
    worst = fmt.t_min if fmt.signed else fmt.t_max
    row = [worst, 0] * 8 if fmt.range_on else [worst] * 16
    total = dot(encode(row, fmt), [-128] * 16, fmt)
    bits = accumulator_bits(fmt, 8, 16)
    assert not -(1 << (bits - 2)) <= total < 1 << (bits - 2)


def test_lanes_that_make_no_sense_are_refused() -> None:
    fmt = Format(4)
    with pytest.raises(InputError, match="^lane 0 has state RANGE, but there is no lane before it$"):
        effective([Lane(1, State.RANGE)], fmt)
    with pytest.raises(InputError, match="^1 lanes but 2 weights: one weight per lane is needed$"):
        dot([Lane(1, State.OWN)], [1, 2], fmt)
    with pytest.raises(InputError, match="^depth must be at least 1, not 0$"):
        accumulator_bits(fmt, 8, 0)
