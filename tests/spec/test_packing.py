"""What is stored and moved: bit positions by hand, every small row there and back, and what no encoder gives."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overq import Format
from overq.errors import InputError
from overq.spec import Lane, State, Wires, encode, from_wires, pack, packed_bytes, to_wires, unpack
from strategies import formats, rows

O, R, M, P = State  # noqa: E741


@pytest.mark.parametrize(
    ("fmt", "lanes", "bits"),
    [
        # plain: nothing but digits, two's complement
        (Format.plain(2, signed=True), [(-2, O), (1, O)], "01 10"),
        # one mode: m above the digit; MOVED is m after m
        (Format(4, 2, 4, 0), [(5, O), (10, R), (1, M)], "1.0001 1.1010 0.0101"),
        (Format(2, 1, 0, 2), [(1, O), (2, P)], "1.10 0.01"),
        # r, f < b: the second digit's top bit is its kind
        (Format(4, 2, 3, 3), [(5, O), (7, R), (9, M), (2, O), (6, P)], "1.1110 0.0010 1.1001 1.0111 0.0101"),
        (Format(4, 1, 2, 3, signed=True), [(-8, O), (-2, R), (3, O), (-4, P)], "1.1100 0.0011 1.0110 0.1000"),
        # a full digit: a kind bit after each odd lane and after the last
        (Format(4, 1, 4, 4), [(5, O), (15, P), (5, O), (15, R), (0, O)], "0 0.0000 0 1.1111 0.0101 1 1.1111 0.0101"),
    ],
)
def test_bits_lie_where_the_page_says(fmt: Format, lanes: list[tuple[int, State]], bits: str) -> None:
    """Lane 0 on the right."""
    row = [Lane(*lane) for lane in lanes]
    stream = bits.replace(" ", "").replace(".", "")
    assert pack(row, fmt) == int(stream, 2).to_bytes(packed_bytes(len(row), fmt), "little")
    assert -(-len(stream) // 8) == packed_bytes(len(row), fmt)
    assert unpack(pack(row, fmt), len(row), fmt) == row


def small_formats() -> list[Format]:
    """b = 2 and 3, all r and f, c = 1 and 3, with and without tiles."""
    seconds = [(2, r, f) for r in range(3) for f in range(3)] + [(3, 2, 2), (3, 2, 0), (3, 3, 1), (3, 1, 2)]
    return [
        Format(b, c, r, f, policy, signed, lanes)
        for (b, r, f), c, policy, signed, lanes in itertools.product(seconds, (1, 3), ("first", "largest"), (False, True), (None, 3))
        if (r or f) and not (signed and r == 1)
    ] + [
        Format(b, c, 2, 1, "largest", signed, lanes, 3)
        for b, c, signed, lanes in itertools.product((2, 3), (1, 3), (False, True), (None, 3))
    ]


@pytest.mark.parametrize("signed", [False, True])
def test_one_bit_a_lane_tells_all(signed: bool) -> None:
    """Every row of four lanes over zeros, normal values, outliers: what the encoder gives comes back from the wires, and no two rows
    of lanes have the same wires."""
    for fmt in small_formats():
        if fmt.signed != signed:
            continue
        half, top = fmt.unit // 2, fmt.digit_max * fmt.unit
        kinds = [0, half + 1, top + half, fmt.t_max] + [-half - 1] * signed
        met: dict[Wires, list[Lane]] = {}
        for t in itertools.product(kinds, repeat=4):
            lanes = encode(t, fmt)
            wires = to_wires(lanes, fmt)
            assert from_wires(wires, fmt) == lanes == met.setdefault(wires, lanes)
        assert all(len(wires.kinds) == (2 if fmt.state_bits == 1.5 else 0) for wires in met)


@pytest.mark.parametrize(
    "fmt", [Format(2, 2, 2, 0), Format(2, 3, 1, 1), Format(2, 1, 2, 2), Format(2, 2, 2, 1, signed=True)], ids=lambda f: f.label
)
def test_bits_are_refused_or_mean_lanes(fmt: Format) -> None:
    """All words of three lanes: either refused, or lanes that pack to the same word."""
    taken = 0
    for word in range(1 << 8 * packed_bytes(3, fmt)):
        data = word.to_bytes(packed_bytes(3, fmt), "little")
        try:
            lanes = unpack(data, 3, fmt)
        except InputError:
            continue
        taken += 1
        assert pack(lanes, fmt) == data
    assert taken


@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    fmt = data.draw(formats())
    for row in data.draw(rows(fmt, max_lanes=40)):
        lanes = encode(row, fmt)
        packed = pack(lanes, fmt)
        assert len(packed) == packed_bytes(len(lanes), fmt)
        assert 8 * len(packed) < len(lanes) * (fmt.bits + fmt.state_bits) + 8.5  # half a bit for an odd lane's pair
        assert unpack(packed, len(lanes), fmt) == lanes


def test_wrong_data_is_refused() -> None:
    fmt = Format(4, 1, 4, 0)
    with pytest.raises(InputError, match=r"take 2 bytes, not 3$"):
        unpack(bytes(3), 3, fmt)
    with pytest.raises(InputError, match="^stray bits after the last lane"):
        unpack(bytes([0, 0x80]), 3, fmt)
    with pytest.raises(InputError, match="^lane 0 is the first of a tile, but says"):
        unpack(bytes([0b1_0000]), 1, fmt)
    with pytest.raises(InputError, match="^lane 2 is the first of a tile, but says"):
        from_wires(Wires((0, 0, 0), (0, 0, 1), ()), fmt.with_(lanes=2))
    with pytest.raises(InputError, match=r"^lane 2: 2 lanes after an OWN one, but cascade is 1$"):
        from_wires(Wires((0, 0, 0), (0, 1, 1), ()), fmt)
    with pytest.raises(InputError, match=r"^lane 1: digit 7 of state RANGE is outside 0 … 3$"):
        from_wires(Wires((0, 7), (0, 1), ()), Format(4, 1, 2, 0))
    with pytest.raises(InputError, match=r"^lanes 0 and 1: a kind bit without a second digit$"):
        from_wires(Wires((0, 0), (0, 0), (1,)), Format(4, 1, 4, 4))
    with pytest.raises(InputError, match="^lane 1: state MOVED does not occur in A4 r4 c1"):
        pack([Lane(0, State.OWN), Lane(0, State.MOVED)], fmt)
    with pytest.raises(InputError, match="are not those of encoded lanes"):
        pack([Lane(0, State.OWN), Lane(0, State.MOVED)], fmt.with_(cascade=2))
    with pytest.raises(InputError, match=r"^lane 0: digit 16 of state OWN is outside 0 … 15$"):
        pack([Lane(16, State.OWN)], fmt)
