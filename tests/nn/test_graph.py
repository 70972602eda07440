"""The reader of networks: one kind for all spellings, every option, in-place operations, and no trace left on the model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from overq.errors import InputError
from overq.nn import kinds
from overq.nn.graph import read
from overq.nn.kinds import AdaptivePool, Add, Clip, Flatten, Op, Pad, Pick, Pool, Reduce, Same, Scale, Split, Unknown
from zoo import FOLLOWED, REFUSED, Around, trained

INF = math.inf


class Of(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function
        if isinstance(function, nn.Module):
            self.add_module("part", function)

    def forward(self, x: torch.Tensor) -> Any:
        return self.part(x) if "part" in self._modules else self.function(x)


def kind(function: Callable[[Any], Any]) -> Op:
    """Of the last operation."""
    return read(Of(function)).nodes[-2].op


SPELLINGS: dict[Op, list[Callable[[Any], Any]]] = {
    Clip(0, INF): [
        nn.ReLU(), nn.ReLU(inplace=True), F.relu, torch.relu, torch.relu_, F.relu_, lambda x: x.relu(), lambda x: x.relu_(),
        lambda x: F.relu(input=x), lambda x: F.relu(x, True), lambda x: x.clamp(0), lambda x: x.clamp(min=0), lambda x: x.clamp_min(0),
        lambda x: x.clamp_min_(min=0), lambda x: torch.clamp(x, min=0.0), lambda x: torch.clip(x, 0, None), lambda x: F.threshold(x, 0, 0),
        nn.Threshold(0, 0), lambda x: F.hardtanh(x, 0, INF),
    ],
    Clip(0, 6): [nn.ReLU6(), F.relu6, nn.Hardtanh(0, 6), lambda x: F.hardtanh(x, min_val=0, max_val=6.0), lambda x: x.clamp(0, 6)],
    Clip(-1, 1): [nn.Hardtanh(), F.hardtanh, lambda x: F.hardtanh_(x), lambda x: x.clip_(-1, 1)],
    Same("dropout"): [nn.Dropout(), nn.Dropout2d(inplace=True), lambda x: F.dropout(x, 0.5, False), lambda x: F.dropout(x, training=False)],
    Flatten(1, -1): [nn.Flatten(), lambda x: x.flatten(1), lambda x: torch.flatten(x, start_dim=1), lambda x: torch.flatten(x, 1, -1)],
    Reduce("average", (2, 3)): [
        lambda x: x.mean((2, 3)), lambda x: x.mean([2, 3], False), lambda x: torch.mean(x, dim=(2, 3)), lambda x: x.mean(axis=(2, 3)),
    ],
    Reduce("average", (-1,), True): [lambda x: x.mean(-1, True), lambda x: torch.mean(x, -1, keepdim=True),
        lambda x: x.mean(-1, keepdims=True)],
    Reduce("sum", None): [lambda x: x.sum(), torch.sum],
    Scale(2, 0): [lambda x: x * 2, lambda x: 2 * x, lambda x: x.mul(2), lambda x: torch.multiply(x, 2.0), lambda x: x / 0.5,
        lambda x: x.mul_(2)],
    Scale(1, -3): [lambda x: x - 3, lambda x: -3 + x, lambda x: torch.sub(x, 1.5, alpha=2), lambda x: x.add(-1, alpha=3)],
    Scale(-1, 1): [lambda x: 1 - x],
    Scale(-1, 0): [lambda x: -x, torch.neg, lambda x: x.negative()],
    Add(2): [lambda x: torch.add(x, x, alpha=2), lambda x: x.add(x, alpha=2)],
    Add(-1): [lambda x: x - x.relu(), lambda x: torch.sub(x, x), lambda x: x.sub_(x.relu())],
    Pool("greatest", (3, 3), (2, 2), (1, 1), (1, 1)): [
        nn.MaxPool2d(3, 2, 1), lambda x: F.max_pool2d(x, 3, 2, 1), lambda x: F.max_pool2d(x, (3, 3), stride=(2, 2), padding=1),
        lambda x: torch.max_pool2d(x, 3, 2, 1), lambda x: F.max_pool2d(x, kernel_size=3, stride=2, padding=1, ceil_mode=False),
    ],
    Pool("greatest", (2, 2), (2, 2), (0, 0), (2, 1), True): [nn.MaxPool2d(2, dilation=(2, 1), ceil_mode=True)],
    Pool("average", (2, 3), (2, 3), (1, 1), (1, 1), True, False, 5): [
        nn.AvgPool2d((2, 3), None, 1, True, False, 5), lambda x: F.avg_pool2d(x, (2, 3), None, 1, True, False, 5),
        lambda x: F.avg_pool2d(x, (2, 3), padding=1, ceil_mode=True, count_include_pad=False, divisor_override=5),
    ],
    AdaptivePool("average", (1, 1)): [nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1)),
        lambda x: F.adaptive_avg_pool2d(x, output_size=1)],
    AdaptivePool("greatest", (None, 2)): [nn.AdaptiveMaxPool2d((None, 2)), lambda x: F.adaptive_max_pool2d(x, (None, 2))],
    Pad((1, 2), "constant", 0.5): [nn.ConstantPad1d((1, 2), 0.5), lambda x: F.pad(x, (1, 2), value=0.5),
        lambda x: F.pad(x, [1, 2], "constant", 0.5)],
    Pad((1, 1, 1, 1), "reflect"): [nn.ReflectionPad2d(1), lambda x: F.pad(x, (1,) * 4, mode="reflect")],
    Split(1, chunks=2): [lambda x: x.chunk(2, 1), lambda x: torch.chunk(x, chunks=2, dim=1)],
    Split(1, (3, 5)): [lambda x: x.split([3, 5], 1), lambda x: torch.split(x, (3, 5), dim=1), lambda x: x.split(split_size=[3, 5], dim=1)],
    Pick((0, Ellipsis, 2)): [lambda x: x[0, ..., 2]],
    Unknown("option alpha=True"): [lambda x: torch.add(x, x, alpha=True)],
    Unknown("option return_indices=True"): [nn.MaxPool2d(2, return_indices=True), nn.AdaptiveMaxPool2d(1, return_indices=True)],
    Unknown("option training=True: its values are random"): [F.dropout, lambda x: F.dropout(x, 0.1, True)],
    Unknown("option dtype=torch.float64"): [lambda x: x.mean(1, dtype=torch.float64)],
    Unknown("option mode='bilinear'"): [nn.Upsample(scale_factor=2, mode="bilinear"),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")],
}  # fmt: skip


@pytest.mark.parametrize(("wanted", "function"), [(op, f) for op, functions in SPELLINGS.items() for f in functions])
def test_one_kind_for_every_spelling(wanted: Op, function: Callable[[Any], Any]) -> None:
    assert kind(function) == wanted


NETWORKS = FOLLOWED | {name: network[:2] for name, network in REFUSED.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_read_computes_what_the_model_computes(name: str) -> None:
    """In-place operations, aliases and all; except where the reader says that it could not follow, or the model itself is random."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 12, 12)
    net = trained(Around(NETWORKS[name][0], **NETWORKS[name][1]), x)
    before = copy.deepcopy(net.state_dict())
    attributes = {module: dict(vars(module)) for module in net.modules()}
    try:
        graph = read(net)
    except InputError:
        return
    assert {module: dict(vars(module)) for module in net.modules()} == attributes
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    if any(isinstance(n.op, Unknown) and ("random" in n.why or "changed memory" in n.why or "assigns" in n.why) for n in graph.live()):
        return
    with torch.no_grad():
        *_, (_, got) = graph.run(x.clone())
        assert torch.equal(got, net(x.clone()))


def test_defaults_of_optional_arguments_decide_which_way_forward_goes() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, times: int = 3, *, flip: bool = False) -> torch.Tensor:
            x = x * times
            if mask is not None:
                x = x * mask
            return x.flip(1) if flip else x.relu()

    ops = [node.op for node in read(Net()).nodes]
    assert [op for op in ops if not isinstance(op, kinds.Number)] == [kinds.Input(), Scale(3, 0), Clip(0, INF), kinds.Output(True)]


def test_a_model_in_training_is_read_as_in_evaluation_and_left_in_training() -> None:
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), nn.Dropout(0.1)).train()
    net[2].eval()
    assert [type(n.op) for n in read(net).nodes] == [kinds.Input, Same, kinds.Norm, Same, kinds.Output]
    assert [m.training for m in net] == [True, True, False]


def test_what_evaluation_leaves_in_training_is_random() -> None:
    class MonteCarlo(nn.Sequential):
        def train(self, mode: bool = True) -> MonteCarlo:
            return super().train(True)

    ops = [n.op for n in read(MonteCarlo(nn.Dropout(0.5), nn.BatchNorm1d(3))).nodes]
    assert ops[1:3] == [Unknown("option training=True: its values are random"), Unknown("it stays in training mode")]
