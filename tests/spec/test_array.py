"""encode_tile: switched-off lanes and segments cut a tile into vectors of their own; ArrayConfig's widths stand in tests/rtl."""

from hypothesis import given, settings
from hypothesis import strategies as st

from overq.spec import Format, State, encode, encode_tile
from strategies import formats, values


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_tile_is_its_pieces_side_by_side(data: st.DataObject) -> None:
    fmt = data.draw(formats(max_bits=4, max_cascade=4)).with_(lanes=None)
    row = data.draw(st.lists(st.one_of(st.none(), st.just(0), values(fmt)), min_size=1, max_size=10))
    starts = data.draw(st.sets(st.integers(0, 9)))
    lanes = encode_tile(row, fmt, sorted(starts))
    assert len(lanes) == len(row)
    begin = 0
    for end in [*(i for i in range(1, len(row)) if i in starts or row[i] is None or row[i - 1] is None), len(row)]:
        piece = row[begin:end]
        if piece == [None]:
            assert lanes[begin] == (0, State.OWN)
        else:
            assert lanes[begin:end] == encode([t for t in piece if t is not None], fmt)
        begin = end


def test_nothing_crosses_a_lane_that_is_off() -> None:
    """The outlier before the hole is clipped although a zero stands behind it; without the hole it is served."""
    fmt = Format(4, cascade=3)
    assert [lane.state for lane in encode_tile([160 * 8, 40, 0, 0], fmt)][:3] == [State.OWN, State.RANGE, State.MOVED]
    off = encode_tile([160 * 8, None, 0, 0], fmt)
    assert off == [(15, State.OWN), (0, State.OWN), (0, State.OWN), (0, State.OWN)]
