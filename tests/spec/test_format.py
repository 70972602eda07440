"""Format: what it refuses, and the numbers that follow from it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from overq import Format
from overq.errors import FormatError
from overq.spec import State


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
            {"range_overwrite": False, "precision_overwrite": False},
            "Format.cascade is 4 but range_overwrite and precision_overwrite are both off: "
            "turn one on, or use cascade=0 for plain quantization",
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
        (Format(2), (0, 3, 0, 15, 0, 15 << 3)),
        (Format(8), (0, 255, 0, 65535, 0, 65535 << 9)),
        (Format(2, signed=True), (-2, 1, -10, 5, -10 << 3, 5 << 3)),
        (Format(4, signed=True), (-8, 7, -136, 119, -136 << 5, 119 << 5)),
    ],
)
def test_ranges_are_those_of_the_design_page(fmt: Format, numbers: tuple[int, ...]) -> None:
    assert (fmt.digit_min, fmt.digit_max, fmt.wide_min, fmt.wide_max, fmt.t_min, fmt.t_max) == numbers


@pytest.mark.parametrize(
    ("fmt", "states"),
    [
        (Format.plain(4), {State.OWN}),
        (Format(4, 0), {State.OWN}),
        (Format(4, 1, precision_overwrite=False), {State.OWN, State.RANGE}),
        (Format(4, 1), {State.OWN, State.RANGE, State.PRECISION}),
        (Format(4, 2, precision_overwrite=False), {State.OWN, State.RANGE, State.MOVED}),
        (Format(4, 4, range_overwrite=False), {State.OWN, State.PRECISION}),
        (Format(4, 4, range_overwrite=False, policy="largest"), {State.OWN, State.MOVED, State.PRECISION}),
        (Format(4, 4), set(State)),
    ],
)
def test_possible_states_and_their_bits(fmt: Format, states: set[State]) -> None:
    assert set(fmt.states) == states
    assert fmt.state_bits == {1: 0, 2: 1, 3: 2, 4: 2}[len(states)]
