"""Format: what it refuses, and the numbers that follow from it."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overq import Format
from overq.errors import FormatError
from overq.spec import State
from strategies import formats


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 1}, "Format.bits must be an integer from 2 to 8, not 1"),
        ({"bits": 9}, "Format.bits must be an integer from 2 to 8, not 9"),
        ({"bits": 4.0}, "Format.bits must be an integer from 2 to 8, not 4.0"),
        ({"bits": True}, "Format.bits must be an integer from 2 to 8, not True"),
        ({"cascade": -1}, "Format.cascade must be an integer from 0 to 16, not -1"),
        ({"cascade": 17}, "Format.cascade must be an integer from 0 to 16, not 17"),
        ({"policy": "best"}, "Format.policy must be one of first, largest, not 'best'"),
        ({"signed": 1}, "Format.signed must be True or False, not 1"),
        ({"lanes": 0}, "Format.lanes must be an integer from 1 to 2147483647, not 0"),
        (
            {"range_bits": 0, "fraction_bits": 0},
            "Format.cascade is 4 but range_bits and fraction_bits are both 0: "
            "give one of them bits, or use cascade=0 for plain quantization",
        ),
        ({"range_bits": 5}, "Format.range_bits must be an integer from 0 to 4, not 5"),
        ({"fraction_bits": -1}, "Format.fraction_bits must be an integer from 0 to 4, not -1"),
        ({"fraction_bits": 1.0}, "Format.fraction_bits must be an integer from 0 to 4, not 1.0"),
        (
            {"range_bits": 1, "signed": True},
            "Format.range_bits is 1 but signed: a high digit of one bit has no positive value; use 0, or 2 or more",
        ),
        ({"lanes": 1}, "Format.lanes is 1 but cascade is 4: a one-lane tile has no neighbour to overwrite; use cascade=0 or more lanes"),
    ],
)
def test_senseless_formats_are_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        Format(**arguments)
    assert str(caught.value) == message


def test_it_is_a_frozen_value() -> None:
    fmt = Format()
    with pytest.raises(FrozenInstanceError):
        fmt.bits = 5  # type: ignore[misc]
    assert fmt.with_(bits=5) == Format(5)
    assert {fmt: 1}[Format(4)] == 1
    with pytest.raises(FormatError):
        fmt.with_(bits=99)


@pytest.mark.parametrize(
    ("fmt", "numbers"),
    [
        (Format(2, 4, 2, 2), (0, 3, 0, 15, 0, 15 << 3)),
        (Format(8, 4, 8, 8), (0, 255, 0, 65535, 0, 65535 << 9)),
        (Format(2, 4, 2, 2, signed=True), (-2, 1, -10, 5, -10 << 3, 5 << 3)),
        (Format(4, 4, 4, 4, signed=True), (-8, 7, -136, 119, -136 << 5, 119 << 5)),
        (Format(4, 4, 3, 0), (0, 15, 0, 127, 0, 127 << 1)),
        (Format(4, 4, 1, 2), (0, 15, 0, 31, 0, 31 << 3)),
        (Format(4, 4, 2, 3, signed=True), (-8, 7, -8 - 32, 7 + 16, -40 << 4, 23 << 4)),
        (Format(4, 4, 0, 3), (0, 15, 0, 15, 0, 15 << 4)),
        (Format.plain(4, signed=True), (-8, 7, -8, 7, -16, 14)),
    ],
)
def test_ranges_are_those_of_the_design_page(fmt: Format, numbers: tuple[int, ...]) -> None:
    assert (fmt.digit_min, fmt.digit_max, fmt.wide_min, fmt.wide_max, fmt.t_min, fmt.t_max) == numbers


@pytest.mark.parametrize(
    ("fmt", "states", "state_bits"),
    [
        (Format.plain(4), {State.OWN}, 0),
        (Format(4, 0), {State.OWN}, 0),
        (Format(4, 1, 4, 0), {State.OWN, State.RANGE}, 1),
        (Format(4, 1, 4, 4), {State.OWN, State.RANGE, State.PRECISION}, 1.5),
        (Format(4, 2, 4, 0), {State.OWN, State.RANGE, State.MOVED}, 1),
        (Format(4, 16, 4, 0, "largest"), {State.OWN, State.RANGE, State.MOVED}, 1),
        (Format(4, 4, 0, 4), {State.OWN, State.PRECISION}, 1),
        (Format(4, 4, 0, 4, "largest"), {State.OWN, State.MOVED, State.PRECISION}, 1),
        (Format(4, 4, 4, 3), set(State), 1.5),
        (Format(4, 4, 3, 4), set(State), 1.5),
        (Format(4, 4, 3, 3), set(State), 1),
        (Format(4, 4, 1, 2), set(State), 1),
    ],
)
def test_possible_states_and_their_bits(fmt: Format, states: set[State], state_bits: float) -> None:
    assert set(fmt.states) == states
    assert fmt.state_bits == state_bits


def test_plain_means_no_second_digits() -> None:
    assert Format(4, 0) == Format.plain(4) == Format(4, 0, 3, 2)
    assert Format(4, 0).range_bits == Format(4, 0).fraction_bits == 0


@given(formats(), st.integers(2, 8), st.booleans())
def test_a_change_never_leaves_an_illegal_format(fmt: Format, bits: int, signed: bool) -> None:
    """Second digits keep their distance from b, and stay on or off."""
    changed = fmt.with_(bits=bits, signed=signed)
    assert (changed.range_on, changed.precision_on) == (fmt.range_on, fmt.precision_on)
    assert not changed.precision_on or changed.fraction_bits == max(1, bits - (fmt.bits - fmt.fraction_bits))
    assert not changed.range_on or changed.range_bits == max(1 + signed, bits - (fmt.bits - fmt.range_bits))
    assert fmt.with_() == fmt
    assert hash(fmt.with_(policy=fmt.policy)) == hash(fmt)


def test_changes_that_are_named_are_taken_as_they_are() -> None:
    assert Format(4, 4, 3, 3).with_(bits=6, range_bits=3).range_bits == 3
    assert Format(4, 4, 1, 3).with_(signed=True) == Format(4, 4, 2, 3, signed=True)
    assert Format.plain(4).with_(cascade=4) == Format(4)
    assert Format(4).with_(cascade=0) == Format.plain(4)
    with pytest.raises(FormatError, match=r"^Format.range_bits is 1 but signed"):
        Format(4).with_(signed=True, range_bits=1)


@given(formats())
def test_the_label_is_the_format(fmt: Format) -> None:
    """Read back by a pattern of its own, so no two formats have one name; policy means nothing in a plain one."""
    found = re.fullmatch(r"A(\d)(s?) (?:plain|(?:r(\d))?\+?(?:f(\d))? c(\d+))( largest)?(?: evict(\d))?(?: tile(\d+))?", fmt.label)
    assert found is not None
    bits, signed, r, f, cascade, largest, evict, lanes = found.groups()
    policy = fmt.policy if not fmt.cascade else "largest" if largest else "first"
    read = Format(
        int(bits), int(cascade or 0), int(r or 0), int(f or 0), policy, bool(signed), int(lanes) if lanes else None, int(evict or 0)
    )
    assert read == fmt


@given(formats())
def test_json_and_back(fmt: Format) -> None:
    assert Format.from_json(json.loads(json.dumps(fmt.to_json()))) == fmt


@pytest.mark.parametrize(("switches", "seconds"), [((True, True), (4, 4)), ((True, False), (4, 0)), ((False, True), (0, 4))])
def test_old_switches_are_read_for_one_release(switches: tuple[bool, bool], seconds: tuple[int, int]) -> None:
    """True was all b bits; what was left out was True."""
    expected = Format(4, 4, *seconds)
    names = ("range_overwrite", "precision_overwrite")
    given = dict(zip(names, switches, strict=True))
    with pytest.warns(DeprecationWarning, match="are now range_bits and fraction_bits"):
        assert Format(4, 4, **given) == expected
    with pytest.warns(DeprecationWarning, match="range_bits"):
        assert Format(4, 4, *switches) == expected
    with pytest.warns(DeprecationWarning, match="range_bits"):
        assert Format(4, 4, **({name: value for name, value in given.items() if not value} or given)) == expected
    if not all(switches):
        with pytest.warns(DeprecationWarning, match="range_bits"):
            assert Format(4, 4, 4, 4).with_(**{name: value for name, value in given.items() if not value}) == expected


def test_old_json_is_read_silently() -> None:
    old = {
        "bits": 3,
        "cascade": 2,
        "range_overwrite": True,
        "precision_overwrite": False,
        "policy": "first",
        "signed": False,
        "lanes": None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Format.from_json(old) == Format(3, 2, 3, 0)
        assert Format.from_json(old | {"cascade": 0}) == Format.plain(3)
    with pytest.raises(FormatError, match="needs exactly the fields"):
        Format.from_json({"bits": 3})
    with pytest.raises(FormatError, match=r"^Format.range_overwrite must be True or False, not 1$"):
        Format.from_json(old | {"range_overwrite": 1})


def test_evict_is_written_only_where_it_is_on_and_read_where_it_is_missing() -> None:
    assert "evict" not in Format().to_json()
    assert Format(evict=2).to_json() == Format().to_json() | {"evict": 2}
    for wrong in (-1, 4, True, "1", None):
        with pytest.raises(FormatError, match=r"^Format\.evict must be an integer from 0 to 3, not "):
            Format(evict=wrong)


def test_what_says_two_things_is_refused() -> None:
    with pytest.warns(DeprecationWarning, match="range_bits"), pytest.raises(FormatError, match="are both given"):
        Format(4, 4, 3, range_overwrite=True)
    with pytest.raises(TypeError, match=r"^Format has no field 'cascades'; there are bits, cascade, range_bits"):
        Format(4, cascades=2)
