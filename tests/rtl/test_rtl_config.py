"""ArrayConfig refuses what cannot be built, in one line; widths and row states."""

import pytest

from overq.errors import FormatError
from overq.rtl import RowState
from overq.spec import ArrayConfig, Format, State, accumulator_bits, encode
from overq.spec.packing import to_wires


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 4}, r"^ArrayConfig\.format must be a Format, not 4$"),
        ({"weight_bits": 9}, r"^ArrayConfig\.weight_bits must be an integer from 2 to 8, not 9$"),
        ({"rows": 0}, r"^ArrayConfig\.rows must be an integer from 1 to 4096, not 0$"),
        ({"columns": True}, r"^ArrayConfig\.columns must be an integer from 1 to 4096, not True$"),
        ({"depth": 15}, r"^ArrayConfig\.depth must be an integer from 16 to \d+, not 15$"),
        ({"format": Format(lanes=8)}, r"^Format\.lanes is 8 but the array has 16 rows: one tile is one column of rows$"),
        ({"rows": 1}, r"^ArrayConfig\.rows is 1 but the format overwrites neighbours: use at least 2 rows or cascade=0$"),
        ({"sum_bits": 20}, r"^ArrayConfig\.sum_bits is 20, but 16 lanes can need 21 bits$"),
    ],
)
def test_bad_configurations_get_one_line(fields, message):
    with pytest.raises(FormatError, match=message):
        ArrayConfig(**fields)


def test_widths():
    config = ArrayConfig(Format(4, 4, 4, 4), rows=16, depth=64)
    assert config.psum_bits == accumulator_bits(config.format, 8, 64)
    assert config.with_(sum_bits=32).psum_bits == 32
    assert config.t_bits == 13  # 0 … 8160
    assert ArrayConfig(Format(4, 4, 4, 4, signed=True)).t_bits == 14  # -4352 … 3808
    assert ArrayConfig(Format(4, 4, 4, 4, signed=True)).label == "A4s r4+f4 c4 W8"


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("policy", ["first", "largest"])
@pytest.mark.parametrize("seconds", [(3, 0), (0, 3), (3, 3), (2, 2)])
@pytest.mark.parametrize("cascade", [1, 3])
def test_row_bits_and_the_row_above_give_the_state_back(signed, policy, seconds, cascade, rng_rows):
    """MOVED needs no bit of its own: on every encoded row, the row bits and the lane above tell all states."""
    fmt = Format(3, cascade, *seconds, policy=policy, signed=signed)
    state, met = RowState(fmt), set()
    for row in rng_rows(fmt):
        lanes = encode(row, fmt)
        wires = [state.wires(lane) for lane in lanes]
        assert max(bits for _, bits in wires) < 1 << state.width
        assert [digit % fmt.base for digit, _ in wires] == list(to_wires(lanes, fmt).fields)
        assert [bits & 1 for _, bits in wires] == list(to_wires(lanes, fmt).previous)
        for k, lane in enumerate(lanes):
            assert state.lane(*wires[k], wires[k - 1][1] & 1 if k else 0) == lane
            met.add(lane.state)
    assert met == set(fmt.states)
    assert State.OWN in met
