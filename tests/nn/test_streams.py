"""Channels that may change places, in networks of every idiom: whatever is permuted, the function stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from overq.nn.graph import read
from overq.nn.kinds import Unknown
from overq.nn.streams import Streams
from overq.tune.reorder_network import permuted
from zoo import FOLLOWED, REFUSED, Around, trained

NETWORKS = FOLLOWED | {name: network[:2] for name, network in REFUSED.items()}


def moved(net: nn.Module, seed: int) -> tuple[nn.Module, int]:
    """(the network with every class shuffled, how many channels there were to shuffle)."""
    streams, generator = Streams(net), torch.Generator().manual_seed(seed)
    targets: dict[int, int] = {}
    for members in streams.classes():
        order = torch.randperm(len(members), generator=generator).tolist()
        targets |= {atom: members[i] for atom, i in zip(members, order, strict=True)}
    return permuted(net, streams, targets), len(targets)


@pytest.mark.parametrize("name", NETWORKS)
def test_any_permutation_of_any_network_leaves_its_function(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 3, 12, 12)
    net = trained(Around(*NETWORKS[name][:1], **NETWORKS[name][1]), x).double()
    try:
        read(net)
    except Exception:
        return  # what cannot be traced is refused, see test_integer_zoo
    if any(isinstance(n.op, Unknown) and "random" in n.op.why for n in read(net).nodes):
        return
    with torch.no_grad():
        expected = copy.deepcopy(net)(x.double())
        got = moved(net, 1)[0](x.double())
    assert torch.allclose(got, expected, rtol=1e-9, atol=1e-9)


MOVABLE = {
    "DenseNet": 8 + 6 + 6, "MobileNetV2": 24 + 8, "Inception branches": 8 + 8 + 4, "chunk": 8, "in-place relu, then a residual sum": 8,
    "x += y with another name for x": 8, "view(x.size(0), -1)": 0, "mean(-1).mean(-1)": 16, "ReLU6 in place": 8,
    "permute, Linear, permute": 8 + 6, "flatten(2).mean(2)": 16, "pad of channels": 16, "adaptive average to 1": 16, "mean keepdim": 16,
}  # fmt: skip


@pytest.mark.parametrize("name", MOVABLE)
def test_what_can_move_is_found(name: str) -> None:
    torch.manual_seed(0)
    net = trained(Around(FOLLOWED[name][0], **FOLLOWED[name][1]), torch.randn(3, 3, 12, 12))
    assert moved(net, 0)[1] >= MOVABLE[name], (name, Streams(net).reasons())


class Weights(nn.Module):
    """Layers whose weights are not theirs alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.table = nn.Embedding(6, 6)

    def forward(self, x: torch.Tensor) -> Any:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


CHANGES = {
    "parametrized": lambda net: parametrizations.weight_norm(net.b),
    "weight norm": lambda net: torch.nn.utils.weight_norm(net.b),
    "pruned": lambda net: prune.random_unstructured(net.b, "weight", 0.5),
    "tied to an embedding": lambda net: setattr(net.table, "weight", net.b.weight),
    "with a hook": lambda net: net.b.register_forward_hook(lambda module, args, out: out * torch.arange(6)),
    "patched": lambda net: setattr(net.b, "forward", lambda x: F.linear(x, net.b.weight.cumsum(0))),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_layers_with_weights_that_are_not_theirs_alone_stay_in_place(change: str) -> None:
    net = Weights().eval()
    CHANGES[change](net)
    streams = Streams(net)
    held = {streams.find(atom) for members in streams.classes() for atom in members}
    assert not held & {streams.find(atom) for atom in [*streams.outputs["a"], *streams.inputs["c"]]}


def test_a_weight_that_is_also_read_as_a_tensor_pins_its_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(torch.relu(self.b(torch.relu(self.a(x)))), self.b.weight)

    streams = Streams(Net())
    assert streams.classes() == []
    assert streams.reasons()["b"] == "b's weights are read as tensors too"
