"""The definition on rows worked by hand from design section 1.2. Values are written in steps; t = value · 2^(f+1)."""

from __future__ import annotations

import pytest

from overq import Format, spec
from overq.spec import State, encode
from overq.spec.encode import give_way

O, R, M, P = State  # noqa: E741


def row(fmt: Format, *values: float) -> list[int]:
    return [int(value * fmt.unit) for value in values]


@pytest.mark.parametrize(
    ("fmt", "values", "lanes"),
    [
        # plain: an outlier clips
        (Format.plain(4), (20, 0, 3), [(15, O), (0, O), (3, O)]),
        # range, c = 1: 20 = 1 · 16 + 4
        (Format(4, 1, 4, 0), (20, 0, 3), [(4, O), (1, R), (3, O)]),
        # the zero is not next door: c = 1 cannot reach it, c = 2 moves the 3 up
        (Format(4, 1, 4, 0), (20, 3, 0), [(15, O), (3, O), (0, O)]),
        (Format(4, 2, 4, 0), (20, 3, 0), [(4, O), (1, R), (3, M)]),
        # precision: 3.25 = 3 + 4/16
        (Format(4, 1, 4, 4), (3.25, 0), [(3, O), (4, P)]),
        # fraction digits carry: 2.96875 is nearest to 2 + 15.5/16 -> 3 + 0/16
        (Format(4, 1, 4, 4), (2.96875, 0), [(3, O), (0, P)]),
        # an outlier goes before precision
        (Format(4, 2, 4, 4), (20, 3.25, 0), [(4, O), (1, R), (3, M)]),
        # first: the farthest outlier; largest: the worst clipped
        (Format(4, 4, 4, 4), (20, 40, 0), [(4, O), (1, R), (15, M)]),
        (Format(4, 4, 4, 4, policy="largest"), (20, 40, 0), [(15, O), (8, O), (2, R)]),
        # on a tie the lower lane
        (Format(4, 4, 4, 4, policy="largest"), (40, 40, 0), [(8, O), (2, R), (15, M)]),
        # precision under first serves the lane next door only, under largest the worst rounded
        (Format(4, 4, 4, 4), (3.25, 5, 0), [(3, O), (5, O), (0, P)]),
        (Format(4, 4, 4, 4, policy="largest"), (3.25, 5, 0), [(3, O), (4, P), (5, M)]),
        # each zero serves one value; the second outlier waits for the next zero
        (Format(4, 4, 4, 4), (20, 0, 40, 0), [(4, O), (1, R), (8, O), (2, R)]),
        # a zero's reach ends at the previous zero, used or not
        (Format(4, 4, 4, 0), (20, 0, 0), [(4, O), (1, R), (0, O)]),
        # nothing crosses a tile's edge
        (Format(4, 4, 4, 0, lanes=2), (1, 20, 0, 20), [(1, O), (15, O), (0, O), (15, O)]),
        # two digits saturate
        (Format(4, 1, 4, 4), (1000, 0), [(15, O), (15, R)]),
        # signed digits are balanced: 9 = 1 · 16 - 7, -9 = -1 · 16 + 7
        (Format(4, 1, 4, 4, signed=True), (9, 0, -9, 0), [(-7, O), (1, R), (7, O), (-1, R)]),
        (Format(4, 1, 4, 4, signed=True), (-1000, 0), [(-8, O), (-8, R)]),
        # a value that rounds to zero frees its lane
        (Format(4, 1, 4, 4), (20, 0.49), [(4, O), (1, R)]),
    ],
)
def test_hand_worked_rows(fmt: Format, values: tuple[float, ...], lanes: list[tuple[int, State]]) -> None:
    assert [tuple(lane) for lane in encode(row(fmt, *values), fmt)] == lanes


def test_ties_round_up() -> None:
    fmt = Format(4, 0, signed=True)
    assert [lane.digit for lane in encode(row(fmt, 0.5, -0.5, 1.5, -1.5), fmt)] == [1, 0, 2, -1]


def test_counts_of_a_hand_worked_row() -> None:
    fmt = Format(4, 1)
    counts = spec.count(row(fmt, 20, 0, 40, 3, 1.5, 0, 0), fmt)
    assert counts == spec.Counts(values=7, zeros=3, outliers=2, served=1, precise=1)
    assert (counts.zero_rate, counts.outlier_rate, counts.coverage) == (3 / 7, 2 / 7, 0.5)
    assert spec.expected_coverage(0.5, 4) == 1 - 0.5**4


@pytest.mark.parametrize(
    ("evict", "values", "left"),
    [
        (1, (20, 3, 1, 1), (20, 3, 0, 1)),  # the first that is small enough
        (1, (20, 3, 2, 0), (20, 3, 2, 0)),  # a zero in reach
        (1, (20, 3, 2, 2, 2, 1), (20, 3, 2, 2, 2, 1)),  # c = 4 lanes are looked at
        (1, (20, 2, 2, 2, 2, 0), (20, 2, 2, 2, 2, 0)),  # a zero out of reach helps nobody, but nothing is small
        (1, (20, 1, 2, 2, 2, 0), (20, 0, 2, 2, 2, 0)),
        (2, (20, 2, 1), (20, 0, 1)),
        (2, (16, 2, 1), (16, 2, 0)),  # 16 is clipped by one level: no more is lost for it
        (3, (20, 1, 20, 3), (20, 0, 20, 0)),  # each outlier asks lanes of its own
        (3, (20, 20, 1), (20, 20, 0)),  # … and the policy then serves whom it serves: here the first
        (1, (20, 15, 1.49), (20, 15, 0)),  # levels are compared
        (1, (20, 15, 1.5), (20, 15, 1.5)),
        (0, (20, 1, 1), (20, 1, 1)),
    ],
)
def test_who_gives_way(evict: int, values: tuple[float, ...], left: tuple[float, ...]) -> None:
    fmt = Format(4, 4, 3, 3, evict=evict)
    assert give_way(row(fmt, *values), fmt) == row(fmt, *left)
    assert encode(row(fmt, *values), fmt) == encode(row(fmt, *left), fmt.with_(evict=0))
    gone = sum(a != b for a, b in zip(values, left, strict=True))
    counts = spec.count(row(fmt, *values), fmt)
    assert (counts.evicted, counts.zeros) == (gone, values.count(0))


def test_nothing_gives_way_across_an_edge_or_without_a_high_digit() -> None:
    fmt = Format(4, 4, 3, 3, lanes=2, evict=1)
    assert give_way(row(fmt, 1, 20, 1, 20, 1), fmt) == row(fmt, 1, 20, 1, 20, 1)
    assert Format(4, 4, 0, 3, evict=2) == Format(4, 4, 0, 3)
    assert Format.plain(4).with_(evict=3) == Format.plain(4)
