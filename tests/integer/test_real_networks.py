"""Real networks through all that reads them: channel streams, data-free calibration, integers checked step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import overq
from overq.datafree import observe_statistics
from overq.errors import CalibrationError
from overq.integer import integer_network
from overq.nn.graph import read
from overq.nn.kinds import Unknown
from overq.nn.streams import Streams
from overq.spec import Format
from overq.tune.reorder_network import permuted
from shared_data import needs_data, networks

# network: (steps of its integer network, channels that can move, layers that data-free calibration reaches or why it cannot)
NETWORKS: dict[str, tuple[int, int, Any]] = {
    "cifar10/resnet20": (55, 400, 20),
    "imagenet/squeezenet": (66, 2944, "the model has no batch norm"),
    "imagenet/resnet18": (50, 2880, "none of the 20 batch norms is usable"),
    "imagenet/mobilenet_v2": (102, 9128, 53),
    "imagenet/resnet50": (123, 11456, "none of the 53 batch norms is usable"),
}
SLOW = ("imagenet/resnet18", "imagenet/mobilenet_v2", "imagenet/resnet50")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NETWORKS]
pytestmark = needs_data


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_known_and_channels_can_move(name: str) -> None:
    net, x = networks().load(name).eval(), networks().images(name.partition("/")[0], "test", 2)[0]
    assert [node.why for node in read(net).nodes if isinstance(node.op, Unknown)] == []
    streams = Streams(net)
    targets = {atom: members[i - 1] for members in streams.classes() for i, atom in enumerate(members)}
    assert len(targets) == NETWORKS[name][1]
    assert list(streams.reasons().values()) == ["their order comes from outside"]  # of the first layer
    with torch.no_grad():
        assert torch.allclose(permuted(net, streams, targets).double()(x.double()), net.double()(x.double()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_reach_every_layer_or_there_is_a_reason(name: str) -> None:
    net, wanted = networks().load(name).eval(), NETWORKS[name][2]
    if isinstance(wanted, int):
        assert len(observe_statistics(net).layers) == wanted
    else:
        with pytest.raises(CalibrationError, match=wanted):
            observe_statistics(net)


@pytest.mark.parametrize("name", NAMES)
def test_integers_follow_the_simulation_step_by_step(name: str) -> None:
    """`check` raises where a step errs by more than its own rounding. The whole network's distance depends on how it amplifies roundings:
    MobileNetV2 (15 dB) does so much that its simulation in float64 is as far from that in float32."""
    net, calibration = networks().load(name).eval(), networks().images(name.partition("/")[0], "calibration", 8)[0]
    quantized = overq.quantize(net, calibration, overq.Recipe(Format.plain(8), calibration="max"))
    integers = integer_network(quantized)
    assert len(integers.steps) == NETWORKS[name][0]
    assert integers.sqnr is not None
    assert integers.sqnr > (10 if "mobilenet" in name else 30)
