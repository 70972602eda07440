"""Channels that change places all through a network: its function stays, the format errs less, and what must stay in place does."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import overq
from overq import Format, Recipe
from overq.errors import InputError
from overq.nn import observe
from overq.nn.streams import Streams
from overq.tune import reorder_network
from overq.tune.reorder_network import permuted


class Block(nn.Module):
    """Residual; widens by zero channels (option A) where `out` is larger."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.more, self.stride = out - inside, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = x if not self.more else F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return torch.relu(y + short)


class Fire(nn.Module):
    """Two branches side by side, then a depthwise layer."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.a, self.b = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.depth, self.relu = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.squeeze(x))
        return self.relu(self.depth(torch.cat([self.relu(self.a(x)), self.relu(self.b(x))], 1)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.one, self.two, self.fire = Block(8, 8, 1), Block(8, 16, 2), Fire()
        self.grouped, self.head = nn.Conv2d(16, 16, 3, groups=2), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fire(self.two(self.one(self.stem(x))))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(torch.relu(self.grouped(x)), 1), 1))


def network() -> nn.Module:
    """Batch norms with all parameters different, so that a forgotten one shows."""
    torch.manual_seed(0)
    model = Net()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 2)
            for tensor in (module.bias.data, module.running_mean):
                tensor.uniform_(-1, 1)
    return model.eval()


MODEL = network()
X = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(1))
STREAMS = Streams(MODEL)
RECIPE = Recipe(Format(3, 2), first=None, last=None)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_permutation_within_the_classes_leaves_the_function(data: st.DataObject) -> None:
    targets: dict[int, int] = {}
    for members in STREAMS.classes():
        targets |= zip(members, data.draw(st.permutations(members)), strict=True)
    moved = permuted(copy.deepcopy(MODEL).double(), STREAMS, targets)
    wanted = MODEL.double()(X.double())
    MODEL.float()
    assert torch.allclose(moved(X.double()), wanted, rtol=1e-12, atol=1e-12)


def test_every_stream_that_can_move_is_found() -> None:
    """The stem's stream and what padding adds to it, both blocks' insides, squeeze; the branches end in a grouped layer."""
    assert sorted(len(c) for c in STREAMS.classes()) == [8, 8, 8, 8, 16]


def test_what_stays_in_place_has_a_reason() -> None:
    reasons = STREAMS.reasons()
    assert reasons["stem.0"] == "their order comes from outside"
    assert reasons["grouped"] == "grouped has 2 groups"
    assert "two.conv1" not in reasons


def test_the_format_errs_less_and_the_given_model_is_left_alone() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    better = reorder_network(model, observe(model, X), RECIPE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.allclose(better(X), model(X), rtol=0, atol=1e-4)

    def errors(net: nn.Module) -> list[float]:
        return [r.sqnr for r in overq.summary(overq.quantize(net, X, RECIPE))]

    gains = [after - old for after, old in zip(errors(better), errors(model), strict=True)]
    assert sum(gains) > 1, gains  # dB over all layers


def test_layers_that_share_a_weight_stay_in_place() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.c.weight = self.b.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.relu(self.b(torch.relu(self.a(x)))))

    streams = Streams(Twice())
    assert streams.classes() == []
    assert streams.reasons()["c"] == "c shares its weight with another layer"


def test_a_model_that_cannot_be_traced_is_refused_in_one_line() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) if x.sum() > 0 else x

    model = Branching()
    with pytest.raises(InputError, match="^the model cannot be traced: [^\n]*$"):
        reorder_network(model, observe(model, torch.ones(8, 4)), Recipe(Format(3, 2)))
