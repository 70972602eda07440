"""The RTL array and the cycle model hold the same in every register after every clock, with one weight register and with two."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="the rtl extra (amaranth) is not installed")

from rtl_array import run

from overq.rtl import RowState
from overq.sim import ArrayLayer, Snapshot, stepped, total_cycles
from overq.spec import ArrayConfig, Format, Lane, State, encode

FORMATS = {
    "plain": Format.plain(4),
    "range c1": Format(3, 1, fraction_bits=0),
    "range c3": Format(4, 3, fraction_bits=0),
    "precision": Format(4, 1, range_bits=0),
    "full c3": Format(4, 3, 4, 4),
    "one bit c3": Format(4, 3, 3, 3),
    "one bit signed": Format(3, 2, 2, 2, signed=True),
}
ROWS, COLUMNS = 4, 3


def random_layer(fmt: Format, vectors: int, seed: int = 0) -> ArrayLayer:
    """Three tiles of lanes, the last one short, and two blocks of columns, the last one short: six folds."""
    rng = np.random.default_rng(seed)
    shape = vectors, 1, 1, 1, 3 * ROWS - 1
    large = rng.integers(fmt.t_min, fmt.t_max + 1, shape) >> rng.integers(0, fmt.bits + 1, shape)
    t = np.where(rng.random(shape) < 0.4, 0, large)
    lanes = np.array([encode(row, fmt) for row in t.reshape(vectors, -1).tolist()])
    digits, states = lanes.reshape(*shape, 2).transpose(5, 0, 1, 2, 3, 4)
    return ArrayLayer(digits, states, rng.integers(-128, 128, (1, 1, shape[-1], 2 * COLUMNS - 1)))


@pytest.mark.parametrize("double_buffered", [False, True], ids=["one register", "two registers"])
@pytest.mark.parametrize("vectors", [3, 4, 9])
@pytest.mark.parametrize("name", FORMATS)
def test_every_register_after_every_clock(name: str, vectors: int, double_buffered: bool) -> None:
    """Weights, loaded weights, digits and partial sums of all elements; so the cycles are the same, too."""
    fmt = FORMATS[name]
    machine = ArrayConfig(fmt, 8, ROWS, COLUMNS, double_buffered=double_buffered)
    layer = random_layer(machine.tile, vectors)
    config = ArrayConfig(fmt, 8, ROWS, COLUMNS, 3 * ROWS, double_buffered=double_buffered)
    model: list[Snapshot] = []
    slow = stepped.run(layer, machine, model.append)
    ports = {"digit_out": "digits", "sum_out": "sums"}
    if double_buffered:
        ports["chain_out"] = "shadow"
    if fmt.cascade or not double_buffered:  # the plain array's second weight register has no port
        ports["weight_out"] = "weights"
    ran = run(config, machine, layer, tuple(ports))
    wires = np.vectorize(lambda digit, state: RowState(fmt).wires(Lane(int(digit), State(state)))[0])
    for port, field in ports.items():
        held = [wires(snapshot.digits, snapshot.states) if field == "digits" else getattr(snapshot, field) for snapshot in model]
        assert np.array_equal(ran.registers[port], held), port
    assert np.array_equal(ran.sums, slow.sums)
    assert ran.cycles == slow.cycles == total_cycles(machine, vectors, 6)
    met = {State(int(s)) for s in np.unique(layer.states)}
    assert met == set(fmt.states)
