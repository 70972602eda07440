"""The search for an order of channels: its bookkeeping is exact, and it never makes things worse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overq import Format, kernels
from overq.nn import reorder
from overq.nn.reorder import Reader, alternating, lane_order, search

STEP = 0.3


def sample(lanes: int, rows: int = 40, seed: int = 0) -> np.ndarray:
    """Rectified, channels of very different ranges."""
    rng = np.random.default_rng(seed)
    return np.maximum(rng.standard_normal((rows, lanes)) * np.exp(rng.standard_normal(lanes)) + 0.1, 0).astype(np.float32)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, Format]:
    """(channel vectors, format)."""
    lanes = draw(st.integers(2, 70))
    tile = draw(st.none() | st.integers(2, 24))
    fmt = Format(3, draw(st.integers(1, 6)), policy=draw(st.sampled_from(["first", "largest"])), lanes=tile)
    return sample(lanes, seed=draw(st.integers(0, 99))), fmt


def reader_of(x: np.ndarray, fmt: Format) -> Reader:
    return Reader(x, STEP, fmt, range(x.shape[1]), weight=0.5)


def fresh(reader: Reader, x: np.ndarray) -> np.ndarray:
    """What second digits save on each lane, computed anew from the sample in the present order."""
    return Reader(x[:, reader.order], STEP, reader.format, range(len(reader.order))).saved


def error(x: np.ndarray, fmt: Format) -> float:
    """Squared error in squared steps, from the decoded values."""
    return float(np.square((kernels.get("auto", fmt).overwrite(x, STEP, fmt) - x).astype(np.float64) / STEP).sum())


@settings(max_examples=80, deadline=None)
@given(cases(), st.data())
def test_what_a_swap_would_change_is_exact(case: tuple[np.ndarray, Format], data: st.DataObject) -> None:
    x, fmt = case
    lane = st.integers(0, x.shape[1] - 1)
    pairs = data.draw(st.lists(st.tuples(lane, lane).filter(lambda p: p[0] != p[1]), min_size=1, max_size=6))
    for swap in reader_of(x, fmt).swapped(pairs):
        reader = reader_of(x, fmt)
        before = reader.error
        reader.swap(swap)
        assert np.array_equal(reader.saved, fresh(reader, x))
        with_one_digit = 0.5 * reader.channels.error.sum()  # what is saved is kept in float32 and may be nearly all of it
        assert np.isclose(reader.error, 0.5 * error(x[:, reader.order], fmt), rtol=0, atol=1e-6 * with_one_digit)
        assert np.isclose(swap.change, reader.error - before, rtol=1e-6, atol=1e-6)
        assert np.array_equal(reader.order[reader.lane], np.arange(len(reader.order)))


@settings(max_examples=20, deadline=None)
@given(cases(), st.integers(0, 9))
def test_the_search_keeps_its_books_and_never_makes_it_worse(case: tuple[np.ndarray, Format], seed: int) -> None:
    x, fmt = case
    reader = reader_of(x, fmt)
    before = reader.error
    search([reader], [range(len(reader.order))], seed)
    assert sorted(reader.order) == list(range(len(reader.order)))
    assert np.array_equal(reader.saved, fresh(reader, x))
    assert reader.error <= before * (1 + 1e-9)
    assert error(x[:, reader.order], fmt) <= error(x, fmt) + 1e-6 * reader.channels.error.sum()


def test_channels_stay_in_their_class_and_readers_agree() -> None:
    """Two readers of one stream that see its channels in different orders, and one of another stream."""
    fmt, weird = Format(3, 2), np.random.default_rng(0).permutation(40)
    stream = sample(40)
    first, second = Reader(stream, STEP, fmt, range(40)), Reader(stream[:, weird], STEP, fmt, weird.tolist())
    alone = Reader(sample(30, seed=1), STEP, fmt, range(100, 130))
    before = sum(r.error for r in (first, second, alone))
    search([first, second, alone], [range(10), range(10, 40), range(100, 130)])
    assert sum(r.error for r in (first, second, alone)) < 0.9 * before
    moved = {channel: first.lane_of(channel) for channel in range(40)}
    assert sorted(moved[c] for c in range(10)) == list(range(10))
    place = {c: i for i, c in enumerate(weird.tolist())}
    for channel in range(40):  # what sits where `channel` was is the same channel for both
        assert weird[second.order[place[channel]]] == first.order[channel]


@pytest.mark.parametrize("fmt", [Format(3, 4), Format(3, 8, policy="largest"), Format(3, 4, lanes=16)])
def test_an_order_for_a_layer_beats_its_own_order_and_the_start(fmt: Format) -> None:
    x = sample(96, rows=400)
    order = lane_order(x, STEP, fmt).numpy()
    channels = Reader(x, STEP, fmt, range(96)).channels
    own, start, found = (error(x[:, o], fmt) for o in (np.arange(96), alternating(channels.outliers, channels.zeros), order))
    assert found < 0.9 * min(own, start)


def test_nothing_to_swap_is_no_error() -> None:
    search([], [])
    reader = Reader(sample(1), STEP, Format(3, 2), range(1))
    search([reader], [range(1)])
    assert reader.order.tolist() == [0]


def test_an_order_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = np.random.default_rng(5).normal(0, 3, (300, 12)).clip(0).astype(np.float32)
    searched = []
    real = reorder._searched
    monkeypatch.setattr(reorder, "_found", {})
    monkeypatch.setattr(reorder, "_searched", lambda *a: searched.append(a) or real(*a))
    first = reorder.lane_order(sample, 0.25, Format(3, 2))
    first_again = reorder.lane_order(sample.copy(), 0.25, Format(3, 2))
    assert torch.equal(first, first_again)
    first_again[:] = 0  # a caller's own
    assert torch.equal(first, reorder.lane_order(sample, 0.25, Format(3, 2)))
    assert len(searched) == 1
    reorder.lane_order(sample, 0.26, Format(3, 2))
    reorder.lane_order(sample, 0.25, Format(3, 3))
    reorder.lane_order(sample * 2, 0.25, Format(3, 2))
    reorder.lane_order(sample, 0.25, Format(3, 2), first)
    assert len(searched) == 5
