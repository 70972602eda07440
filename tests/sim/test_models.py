"""Stepped model == fast model == the definition's dot products, and cycles as the formulas say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overq.errors import FormatError, InputError
from overq.sim import ArrayLayer, Snapshot, fast, layer_traffic, stepped, total_cycles
from overq.sim.traffic import unencoded_bits
from overq.spec import ArrayConfig, Format, State, dot, encode
from strategies import formats, values


def encoded(t: np.ndarray, fmt: Format) -> tuple[np.ndarray, np.ndarray]:
    """Digits and states of the last axis' vectors, by the definition."""
    lanes = np.array([encode(row, fmt) for row in t.reshape(-1, t.shape[-1]).tolist()])
    digits, states = lanes.reshape(*t.shape, 2).transpose(5, 0, 1, 2, 3, 4)
    return digits, states


def by_definition(layer: ArrayLayer, machine: ArrayConfig) -> np.ndarray:
    """Output pixel by output pixel, tap by tap: sum of spec.dot."""
    images, high, wide, groups, _ = layer.digits.shape
    kernel_high, kernel_wide, _, outputs = layer.weights.shape
    sums = np.zeros((images, *layer.out_size, outputs), np.int64)
    for image, y, x, o, ky, kx in np.ndindex(*sums.shape, kernel_high, kernel_wide):
        row = y * layer.stride[0] + ky * layer.dilation[0] - layer.padding[0]
        column = x * layer.stride[1] + kx * layer.dilation[1] - layer.padding[1]
        if not (0 <= row < high and 0 <= column < wide):
            continue
        at = image, row, column, o * groups // outputs
        lanes = [(int(d), State(s)) for d, s in zip(layer.digits[at], layer.states[at], strict=True)]
        sums[image, y, x, o] += dot(lanes, layer.weights[ky, kx, :, o].tolist(), machine.tile)
    return sums.reshape(layer.vectors, outputs)


@st.composite
def cases(draw: st.DrawFn) -> tuple[ArrayLayer, ArrayConfig]:
    """A small convolution on a small array; tiles in one, both or no direction."""
    fmt = draw(formats(max_bits=5, max_cascade=4)).with_(lanes=None)
    rows, columns = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    machine = ArrayConfig(
        fmt,
        draw(st.sampled_from([3, 8])),
        rows,
        columns,
        double_buffered=draw(st.booleans()),
        segments=draw(st.booleans()),
        pipeline=draw(st.integers(0, 2)),
    )
    groups = draw(st.integers(1, 2))
    kernel, size = draw(st.sampled_from([((1, 1), (1, 1)), ((2, 1), (3, 2)), ((2, 2), (2, 3))]))
    shape = draw(st.integers(1, 3)), *size, groups, draw(st.integers(1, 7))
    count = int(np.prod(shape))
    t = np.array(draw(st.lists(st.one_of(st.just(0), values(fmt)), min_size=count, max_size=count))).reshape(shape)
    limit = 1 << (machine.weight_bits - 1)
    wshape = *kernel, shape[-1], groups * draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**32 - 1))
    weights = np.random.default_rng(seed).integers(-limit, limit, wshape)
    pick = st.tuples(st.integers(1, 2), st.integers(1, 2))
    return ArrayLayer(*encoded(t, machine.tile), weights, draw(pick), draw(st.tuples(st.integers(0, 1), st.integers(0, 1)))), machine


@settings(max_examples=80, deadline=None)
@given(cases())
def test_stepped_equals_fast_equals_definition(case: tuple[ArrayLayer, ArrayConfig]) -> None:
    layer, machine = case
    slow, quick = stepped.run(layer, machine), fast.run(layer, machine)
    assert np.array_equal(slow.sums, by_definition(layer, machine))
    assert np.array_equal(quick.sums, slow.sums)
    assert quick[1:] == slow[1:]  # cycles, folds, busy, multiplied


def plain_layer(vectors: int, channels: int, outputs: int, fmt: Format, seed: int = 0) -> ArrayLayer:
    rng = np.random.default_rng(seed)
    t = np.where(rng.random((vectors, 1, 1, 1, channels)) < 0.5, 0, rng.integers(0, fmt.t_max + 1, (vectors, 1, 1, 1, channels)))
    return ArrayLayer(*encoded(t, fmt), rng.integers(-128, 128, (1, 1, channels, outputs)))


@pytest.mark.parametrize("fmt", [Format.plain(4), Format(4, 4)], ids=["plain", "full"])
@pytest.mark.parametrize(("rows", "columns", "vectors"), [(4, 3, 1), (4, 3, 9), (2, 5, 4), (6, 2, 3)])
def test_one_register_takes_the_well_known_cycles(fmt: Format, rows: int, columns: int, vectors: int) -> None:
    machine = ArrayConfig(fmt, 8, rows, columns)
    one = stepped.run(plain_layer(vectors, rows, columns, machine.tile), machine)
    assert (one.folds, one.cycles) == (1, 2 * rows + columns + vectors - 2)
    six = stepped.run(plain_layer(vectors, 3 * rows, 2 * columns, machine.tile), machine)
    assert (six.folds, six.cycles) == (6, 6 * (2 * rows + columns + vectors - 2))


@pytest.mark.parametrize(("fmt", "gap"), [(Format.plain(4), 0), (Format(4, 1), 1)], ids=["plain", "full"])
def test_double_buffering_hides_the_load(fmt: Format, gap: int) -> None:
    machine = ArrayConfig(fmt, 8, 4, 3, double_buffered=True)
    for vectors, period in ((2, 4), (4, 4 + gap), (9, 9 + gap)):
        ran = stepped.run(plain_layer(vectors, 12, 3, machine.tile), machine)
        assert ran.cycles == total_cycles(machine, vectors, 3) == 1 + (2 * 4 + 3 + vectors - 2) + 2 * period


def test_without_the_gap_the_neighbours_weight_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why OverQ needs one idle cycle between folds: take it away and the sums change."""
    machine = ArrayConfig(Format(4, 4), 8, 3, 2, double_buffered=True)
    layer = plain_layer(8, 9, 2, machine.tile)
    right = fast.run(layer, machine).sums
    assert np.array_equal(stepped.run(layer, machine).sums, right)
    monkeypatch.setattr(ArrayConfig, "gap", 0)
    assert not np.array_equal(stepped.run(layer, machine).sums, right)


def test_a_tile_that_is_exactly_the_array() -> None:
    """Lanes next to a tile's edge never serve each other."""
    machine = ArrayConfig(Format(4, 2), 8, 3, 1)
    t = np.array([[40, 40, 700, 0, 700, 0]]).reshape(1, 1, 1, 1, 6)
    digits, states = encoded(t, machine.tile)
    assert states.ravel().tolist() == [0, 0, 0, 0, 0, int(State.RANGE)]
    layer = ArrayLayer(digits, states, np.ones((1, 1, 6, 1), np.int64))
    assert np.array_equal(stepped.run(layer, machine).sums, fast.run(layer, machine).sums)


def test_watching_shows_every_clock() -> None:
    machine = ArrayConfig(Format(4, 1), 8, 2, 1)
    seen: list[Snapshot] = []
    layer = ArrayLayer(*encoded(np.array([700, 0]).reshape(1, 1, 1, 1, 2), machine.tile), np.array([[[[5], [7]]]]))
    ran = stepped.run(layer, machine, seen.append)
    assert [s.cycle for s in seen] == list(range(ran.cycles))
    assert seen[1].weights.tolist() == [[5], [7]]
    assert seen[3].sums[1, 0] == ran.sums[0, 0] == 22 * 5 << 4  # 700 / 32 rounds to 22; the range digit uses weight 5
    assert "R" in str(seen[3])


def test_traffic_of_one_layer() -> None:
    fmt = Format(4, 4)
    layer = plain_layer(5, 10, 6, fmt.with_(lanes=4))
    moved = layer_traffic(layer, ArrayConfig(fmt, 8, 4, 4))
    assert (moved.array_digits, moved.array_states) == (5 * 10 * 2 * 4, 5 * 10 * 2)  # one state bit
    assert (moved.memory_digits, moved.memory_states, moved.memory_unencoded) == (5 * 10 * 4, 5 * 10, 5 * 10 * 11)
    assert moved.memory_weights == 10 * 6 * 8
    assert unencoded_bits(Format.plain(4)) == 4
    assert unencoded_bits(Format(4, 2, fraction_bits=0)) == 7
    assert unencoded_bits(Format(4, 2, fraction_bits=0, policy="largest")) == 8


def test_refusals() -> None:
    with pytest.raises(FormatError, match=r"^ArrayConfig\.rows must be an integer"):
        ArrayConfig(rows=0)
    with pytest.raises(FormatError, match=r"lanes is 8 but the array has 4 rows"):
        ArrayConfig(Format(4, 1, lanes=8), rows=4)
    layer = plain_layer(1, 4, 2, Format.plain(4))
    with pytest.raises(InputError, match=r"do not fit 4 bits"):
        fast.run(layer, ArrayConfig(Format.plain(4), 4, 4, 4))
    with pytest.raises(InputError, match=r"do not fit 1 groups"):
        ArrayLayer(layer.digits, layer.states, np.zeros((1, 1, 3, 2), np.int64))


def resnet50() -> list[tuple[int, int, int, int]]:
    """(channels, outputs, kernel, output pixels a side) of every convolution and the classifier, on 224 × 224."""
    layers, channels, size = [(3, 64, 7, 112)], 64, 56
    for planes, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            after = size // (stride if block == 0 else 1)
            layers += [(channels, planes, 1, size), (planes, planes, 3, after), (planes, 4 * planes, 1, after)]
            layers += [(channels, 4 * planes, 1, after)] if block == 0 else []
            channels, size = 4 * planes, after
    return [*layers, (2048, 1000, 1, 1)]


@pytest.mark.parametrize(("segments", "cycles"), [(False, 1_566_282), (True, 916_544)])
@pytest.mark.parametrize("fmt", [Format.plain(4), Format(4, 4)], ids=["plain", "overq"])
def test_resnet50_on_128_by_128(fmt: Format, segments: bool, cycles: int) -> None:
    """Whole pixels in a tile bring what cutting im2col rows anywhere brings, for OverQ and for the plain array alike."""
    machine, total = ArrayConfig(fmt, rows=128, columns=128, segments=segments), 0
    for channels, outputs, kernel, size in resnet50():
        empty = np.broadcast_to(np.int8(0), (1, size + kernel - 1, size + kernel - 1, 1, channels))
        layer = ArrayLayer(empty, empty, np.broadcast_to(np.int8(0), (kernel, kernel, channels, outputs)))
        total += total_cycles(machine, layer.vectors, len(layer.tiles(machine)) * -(-outputs // 128))
    assert total == cycles


def test_depthwise_layers_fill_the_array() -> None:
    """Fourteen channels' 3 × 3 windows share 128 rows, each with a column of its own: 1 fold for 14, was 9 for each."""
    empty = np.zeros((1, 5, 5, 28, 1), np.int8)
    layer = ArrayLayer(empty, empty, np.ones((3, 3, 1, 28), np.int64))
    apart, packed = (fast.run(layer, ArrayConfig(Format(4, 4), rows=128, columns=16, segments=s)) for s in (False, True))
    assert (apart.folds, packed.folds, apart.busy, packed.busy) == (28 * 9, 2, packed.busy, 9 * 28 * 9)


def test_what_remains_of_long_vectors_shares_tiles_too() -> None:
    """192 channels on 128 rows: one tile and a half for each of 9 taps are 9 + 5 tiles; the plain array, which cuts anywhere, takes 14."""
    empty = np.broadcast_to(np.int8(0), (1, 3, 3, 1, 192))
    layer = ArrayLayer(empty, empty, np.ones((3, 3, 192, 1), np.int64))
    count = {s: [len(layer.tiles(ArrayConfig(f, rows=128, segments=s))) for f in (Format(4, 4), Format.plain(4))] for s in (False, True)}
    assert count == {False: [18, 18], True: [14, 14]}
