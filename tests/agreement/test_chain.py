"""A real layer's vectors through the whole chain: definition -> arrays -> numba -> integer layer -> cycle model -> RTL simulated."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch

import overq
from overq import kernels
from overq.integer import IntegerLayer, integer_network
from overq.sim import fast, stepped
from overq.spec import ArrayConfig, Format, State, dot, encode
from overq.study.cycles import array_layer, recipe
from shared_data import needs_data, networks

ROWS, COLUMNS = 16, 16
pytestmark = needs_data


class Captured(NamedTuple):
    layer: IntegerLayer
    t: torch.Tensor
    sums: np.ndarray  # [positions, outputs]
    machine: ArrayConfig


@pytest.fixture(scope="module", params=["layer1.0.conv1", "layer2.0.conv1"])
def captured(request: pytest.FixtureRequest) -> Captured:
    """The layer of the integer network, run on a corner of a CIFAR-10 image: 16 channels, 3 × 3, stride 1 and 2."""
    data: ModuleType = networks()
    plan = recipe(Format(4, 4), ROWS)
    quantized = overq.quantize(data.load("cifar10/resnet20"), data.images("cifar10", "calibration", 64)[0], plan)
    found = {}
    net = integer_network(quantized)
    net.run(net.enter(data.images("cifar10", "test", 1)[0]), lambda layer, t, total: found.setdefault(layer.name, (layer, t)))
    layer, t = found[request.param]
    t = t[:, :, 8:18, 8:18]
    total = layer.accumulate(t)
    machine = ArrayConfig(Format(4, 4), layer.weight_bits, ROWS, COLUMNS)
    return Captured(layer, t, total.movedim(1, -1).reshape(-1, total.shape[1]).numpy(), machine)


def test_the_vectors_are_not_trivial(captured: Captured) -> None:
    states = captured.layer.lanes(captured.t)[1]
    assert {int(s) for s in states.unique()} == {int(s) for s in State}


@pytest.mark.parametrize("backend", ["array", "numba"])
def test_encoders_equal_the_definition(captured: Captured, backend: str) -> None:
    fmt = captured.layer.format
    rows = captured.t.movedim(1, -1).reshape(-1, captured.t.shape[1]).contiguous()
    digits, states = kernels.get(backend).encode(rows, fmt)
    expected = np.array([encode(row, fmt) for row in rows.tolist()])
    assert np.array_equal(np.asarray(digits), expected[..., 0])
    assert np.array_equal(np.asarray(states), expected[..., 1])


def test_integer_layer_equals_the_definition(captured: Captured) -> None:
    layer, (_, channels, high, wide) = captured.layer, captured.t.shape
    padded = torch.nn.functional.pad(captured.t, (1, 1, 1, 1))
    by_pixel = {(y, x): encode(padded[0, :, y, x].tolist(), layer.format) for y, x in np.ndindex(high + 2, wide + 2)}
    across = (wide - 1) // layer.stride[1] + 1
    for position, output in np.ndindex(*captured.sums.shape):
        y, x = position // across * layer.stride[0], position % across * layer.stride[1]
        taps = ((by_pixel[y + ky, x + kx], layer.weights[output, :, ky, kx].tolist()) for ky, kx in np.ndindex(3, 3))
        assert captured.sums[position, output] == sum(dot(lanes, weights, layer.format) for lanes, weights in taps)
    assert channels == ROWS


@pytest.mark.parametrize("double_buffered", [False, True])
def test_cycle_model_equals_the_integer_layer(captured: Captured, double_buffered: bool) -> None:
    layer, t, sums, machine = captured
    machine = machine.with_(double_buffered=double_buffered)
    work = array_layer(layer, t)
    quick, slow = fast.run(work, machine), stepped.run(work, machine)
    assert np.array_equal(quick.sums, sums)
    assert np.array_equal(slow.sums, sums)
    assert quick[1:] == slow[1:]


@pytest.mark.parametrize("double_buffered", [False, True])
def test_rtl_in_simulation_equals_the_cycle_model_sum_by_sum_and_cycle_by_cycle(captured: Captured, double_buffered: bool) -> None:
    """A corner of the layer through the Amaranth array, all nine taps; the last sum leaves in the cycle that the model says."""
    pytest.importorskip("amaranth")
    from rtl_array import run

    layer, t, _, machine = captured
    machine = machine.with_(double_buffered=double_buffered)
    corner = t[:, :, :4, :4]
    work = array_layer(layer, corner)
    config = ArrayConfig(machine.format, layer.weight_bits, ROWS, COLUMNS, max(work.depth, ROWS), double_buffered=double_buffered)
    ran = run(config, machine, work)
    total = layer.accumulate(corner)
    assert np.array_equal(ran.sums, total.movedim(1, -1).reshape(-1, total.shape[1]).numpy())
    assert ran.cycles == stepped.run(work, machine).cycles
