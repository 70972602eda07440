"""OverQ and its first form, against the definition and by hand; the exact cost of every method."""

import numpy as np
import pytest
from method_cases import long_tailed

from overq.methods import METHODS, Cost
from overq.methods.overq import OverQ
from overq.methods.overq_first import OverQFirst
from overq.spec import Format, effective, encode


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("settings", [{}, {"bits": 3, "cascade": 2, "lanes": 8}, {"policy": "largest"}])
def test_overq_is_the_definition(settings, signed):
    """Row by row through overq.spec, with a step that float32 divides exactly."""
    x, step = long_tailed(60, 20, signed), 0.25
    fmt = Format(**settings, signed=signed)
    fixed = np.floor(x.astype(np.float64) / step * fmt.unit).astype(int)
    expected = [[e * step / (1 << fmt.fraction_bits) for e in effective(encode(row, fmt), fmt)] for row in fixed.tolist()]
    assert (OverQ(**settings).fit(x, signed, step=step)(x) == np.array(expected, np.float32)).all()


def test_uniform_is_overq_with_everything_off():
    x = long_tailed()
    assert (METHODS["uniform"](4).fit(x, False, 0.3)(x) == OverQ(4, cascade=0).fit(x, False, 0.3)(x)).all()


def test_first_form_by_hand():
    """4 bits unsigned, step 1: one digit holds 0 … 15, two hold 0 … 255."""
    fitted = OverQFirst(4).fit(np.ones((1, 1), np.float32), False, step=1)
    row = np.float32([20, 3, 17, 0, 16, 30, 7, 300, 1, 40])
    #  20 overwrites 3; 17 overwrites 0; 16 stands before an outlier and is clipped; 30 overwrites 7; 300 saturates; 40 has no neighbour
    assert fitted(row).tolist() == [20, 0, 17, 0, 15, 30, 0, 255, 0, 15]


def test_first_form_by_hand_signed_and_in_tiles():
    """3 bits signed: digits -4 … 3, two digits -36 … 27; tiles of two lanes."""
    row = np.float32([-6, 2, 9, 1, -50, 1, 2, 5])
    whole = OverQFirst(3).fit(row[None], True, step=1)
    assert whole(row).tolist() == [-6, 0, 9, 0, -36, 0, 2, 3]
    tiles = OverQFirst(3, lanes=2).fit(row[None], True, step=1)
    assert tiles(np.roll(row, 1)).tolist() == [3, -4, 2, 3, 1, -4, 1, 2]  # outliers at a tile's end are clipped


def test_first_form_loses_what_overq_keeps():
    x = long_tailed()
    errors = {name: float(((METHODS[name]().fit(x, False)(x) - x) ** 2).sum()) for name in ("uniform", "overq_first", "overq")}
    assert errors["overq"] < errors["overq_first"] < errors["uniform"]


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("uniform", {"bits": 5}, Cost(5, 0, 5, 8)),
        ("overq", {"range_bits": 4, "fraction_bits": 4}, Cost(4, 1.5, 4, 8)),  # both digits full: a kind bit for two lanes
        ("overq", {"range_bits": 3, "fraction_bits": 3}, Cost(4, 1, 4, 8)),
        ("overq", {}, Cost(4, 1, 4, 8)),
        ("overq", {"cascade": 0}, Cost(4, 0, 4, 8)),
        ("overq_first", {}, Cost(4, 1, 4, 8)),
        ("ocs_activations", {"ratio": 0.02}, Cost(4 * 66 / 64, 0, 4, 8, 2 / 64)),  # ceil(1.28) channels of 64
        ("ocs_weights", {"ratio": 0.02}, Cost(4, 0, 4, 8, 2 / 64)),
        ("sparq", {}, Cost(4, 3.5, 4, 8)),  # five placements in 3 bits, half a bit for the pair
        ("sparq", {"options": 2, "pairs": False}, Cost(4, 1, 4, 8)),
        ("olive", {}, Cost(4, 0, 4, 8)),
        ("pwlq", {}, Cost(4, 1, 4, 8)),
        ("mx", {}, Cost(4, 8 / 32, 3, 8)),
        ("mx", {"element": "int8"}, Cost(8, 8 / 32, 8, 8)),
    ],
)
def test_costs(name, settings, expected):
    x = long_tailed(50, 64)
    assert METHODS[name](**settings).fit(x, False).cost(x) == expected


def test_old_switches_are_read_for_one_release():
    with pytest.warns(DeprecationWarning, match="range_bits"):
        method = METHODS["overq"](cascade=1, precision_overwrite=False)
    assert method == METHODS["overq"](cascade=1, range_bits=4, fraction_bits=0)


def test_costs_that_depend_on_the_data():
    x = np.zeros((4, 64), np.float32)
    x[:, :8], x[:, 8] = 1, 100  # of 64 lanes, one outlier
    high = METHODS["high_precision"](4, fraction=1 / 32).fit(x, False).cost(x)
    assert (high.payload_bits, high.metadata_bits, high.activation_bits) == (4 + 16 / 64, 6 / 64, 4 * 63 / 64 + 16 / 64)
    two = METHODS["biscaled"](4, block=64).fit(x, False, step=1).cost(x)
    assert (two.payload_bits, two.metadata_bits) == (4, 6 / 64 + 7 / 64)  # one index of 6 bits and one count 0 … 64
    narrow = METHODS["biscaled"](4, block=64).fit(x[:, :16], False, step=1).cost(x[:, :16])
    assert narrow.metadata_bits == 4 / 16 + 5 / 16  # 16 lanes: indices 0 … 15, counts 0 … 16
