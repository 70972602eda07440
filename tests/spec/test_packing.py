"""The packed layout: bit positions by hand, and back again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overq import Format
from overq.errors import InputError
from overq.spec import Lane, State, encode, pack, packed_bytes, unpack


def test_bits_lie_where_the_page_says() -> None:
    # (digit 5, OWN), (digit 10, RANGE), (digit 1, MOVED): fields of 6 bits, least significant first
    lanes = [Lane(0b0101, State.OWN), Lane(0b1010, State.RANGE), Lane(0b0001, State.MOVED)]
    assert int.from_bytes(pack(lanes, Format(4)), "little") == 0b10_0001_01_1010_00_0101
    assert pack(lanes, Format(4)) == bytes([0b10_000101, 0b0001_0110, 0b10])
    # one state bit where only one other state exists: PRECISION is 1
    assert pack([Lane(1, State.OWN), Lane(2, State.PRECISION)], Format(2, 1, range_overwrite=False)) == bytes([0b1_10_0_01])
    # two's complement digits, no state bits
    assert pack([Lane(-2, State.OWN), Lane(1, State.OWN)], Format.plain(2, signed=True)) == bytes([0b01_10])


@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    by_range, precision = data.draw(st.sampled_from([(True, False), (False, True), (True, True)]))
    fmt = Format(
        data.draw(st.integers(2, 8)), data.draw(st.integers(0, 16)), by_range, precision,
        data.draw(st.sampled_from(["first", "largest"])), data.draw(st.booleans()),
    )  # fmt: skip
    lanes = encode(data.draw(st.lists(st.one_of(st.just(0), st.integers(fmt.t_min, fmt.t_max)), max_size=20)), fmt)
    packed = pack(lanes, fmt)
    assert len(packed) == packed_bytes(len(lanes), fmt)
    assert unpack(packed, len(lanes), fmt) == lanes


def test_wrong_data_is_refused() -> None:
    fmt = Format(4, 1, precision_overwrite=False)
    with pytest.raises(InputError, match=r"take 2 bytes, not 3$"):
        unpack(bytes(3), 3, fmt)
    with pytest.raises(InputError, match="^stray bits after the last lane"):
        unpack(bytes([0, 0x80]), 3, fmt)
    with pytest.raises(InputError, match="^lane 0: state PRECISION does not occur in Format"):
        unpack(bytes([0b11_0000]), 1, Format(4, 2, precision_overwrite=False))
    with pytest.raises(InputError, match="^lane 1: state MOVED does not occur in Format"):
        pack([Lane(0, State.OWN), Lane(0, State.MOVED)], fmt)
    with pytest.raises(InputError, match=r"^lane 0: digit 16 is outside 0 … 15$"):
        pack([Lane(16, State.OWN)], fmt)
