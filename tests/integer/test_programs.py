"""Networks put together at random from idioms, aliases and in-place operations: every reader of networks follows them or refuses.

What may never come: an error of another kind, or a check that finds the integers, the trace or a permuted network to be something else.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import overq
from overq.errors import InputError
from overq.integer import integer_network
from overq.nn.graph import read
from overq.nn.streams import Streams
from overq.spec import Format
from overq.tune.reorder_network import permuted

Operation = Callable[[Any, torch.Tensor], torch.Tensor]
PLAIN = overq.Recipe(Format.plain(8), calibration="max", first=None, last=None)

OPERATIONS: dict[str, Operation] = {
    "relu": lambda n, x: F.relu(x), "relu_": lambda n, x: x.relu_(), "relu module": lambda n, x: n.relu(x),
    "relu6": lambda n, x: F.relu6(x, inplace=True), "clamp": lambda n, x: x.clamp(-0.5, 0.8), "conv": lambda n, x: n.conv(x),
    "grouped": lambda n, x: n.grouped(x), "norm": lambda n, x: n.norm(x), "itself": lambda n, x: x, "dropout": lambda n, x: n.dropout(x),
    "identity": lambda n, x: n.same(x), "rows": lambda n, x: x[:, :, 1:], "strides": lambda n, x: x[:, :, ::2, :-1],
    "view": lambda n, x: x.view(x.size(0), x.size(1), -1).view(x.shape),
    "reshape": lambda n, x: x.reshape(x.size(0), -1, x.size(2), x.size(3)),
    "transpose": lambda n, x: x.transpose(2, 3), "mT": lambda n, x: x.mT,
    "permute": lambda n, x: x.permute(0, 1, 3, 2).contiguous(),
    "pad": lambda n, x: F.pad(x, (1, 0, 2, 1), value=0.3), "replicate": lambda n, x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "crop": lambda n, x: F.pad(x, (-1, 1, 0, -1)), "max pool": lambda n, x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average pool": lambda n, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "pool": lambda n, x: F.avg_pool2d(x, 2, 1),
    "divisor": lambda n, x: F.avg_pool2d(x, 2, 1, divisor_override=3), "adaptive": lambda n, x: F.adaptive_avg_pool2d(x, (5, 4)),
    "scale": lambda n, x: x * -0.7, "affine": lambda n, x: x / 3 + 0.1, "1 - x": lambda n, x: 1 - x, "mul_": lambda n, x: x.mul_(0.5),
    "shuffle": lambda n, x: x.view(x.size(0), 2, x.size(1) // 2, x.size(2), x.size(3)).transpose(1, 2).flatten(1, 2),
    "flip": lambda n, x: x.flip(3), "up": lambda n, x: F.interpolate(x, scale_factor=2)[:, :, :10, :10], "clone": lambda n, x: x.clone(),
    "swap": lambda n, x: torch.cat([x.chunk(2, 1)[1], x.chunk(2, 1)[0]], 1), "detach": lambda n, x: x.detach().relu_(),
    "swap, relu_": lambda n, x: torch.cat([x.chunk(2, 1)[1].relu_(), x.chunk(2, 1)[0]], 1),
    "amax": lambda n, x: x + x.amax(3, keepdim=True),
    "split": lambda n, x: torch.cat([x.split(4, 1)[0] * 2, x.split(4, 1)[1]], 1), "mean": lambda n, x: x - x.mean((2, 3), keepdim=True),
    "sigmoid": lambda n, x: x.sigmoid(), "abs": lambda n, x: x.abs(), "x + x": lambda n, x: x + x, "x - relu": lambda n, x: x - F.relu(x),
    "stack": lambda n, x: torch.stack([x, x], 4).mean(4), "factors": lambda n, x: x * n.values, "offsets": lambda n, x: x + n.values,
    "maximum": lambda n, x: torch.maximum(x, n.values), "narrow": lambda n, x: x.narrow(2, 0, x.size(2) - 1),
    "squeeze": lambda n, x: x.unsqueeze(1).squeeze(1), "sum": lambda n, x: x.sum(2, keepdim=True) + x * 0.1,
    "where": lambda n, x: torch.where(x > 0, x, x * 0.1),
}  # fmt: skip
Line = tuple[str, int, int, str]  # operation, its operand and another one (values before, from the last), how they are put together


def merged(y: torch.Tensor, z: torch.Tensor, how: str) -> torch.Tensor:
    if how == "add":
        return y.mean((2, 3), keepdim=True) + z
    if how == "iadd":
        z += y.mean((2, 3), keepdim=True)
        return z
    return torch.cat([y[:, :4, :3, :3], z[:, 4:, :3, :3]], 1) if how == "cat" else y


class Program(nn.Module):
    def __init__(self, lines: list[Line]) -> None:
        super().__init__()
        self.first, self.conv, self.grouped = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1, groups=2)
        self.norm, self.relu, self.dropout, self.same = (
            nn.BatchNorm2d(8, momentum=None),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Identity(),
        )
        self.head, self.values, self.lines = nn.Linear(8, 4), nn.Parameter(torch.randn(1, 8, 1, 1)), lines
        self.norm.weight.data = torch.randn(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [self.first(x)]
        for name, operand, other, how in self.lines:
            y = OPERATIONS[name](self, values[operand % len(values)])
            values.append(merged(y, values[other % len(values)], how))
        return self.head(values[-1].mean((2, 3)) + values[-2].mean((2, 3)))


def program(seed: int) -> tuple[Program, torch.Tensor] | None:
    """None where it makes no sense to PyTorch itself."""
    rng = random.Random(seed)
    hows = ["alone"] * 5 + ["add", "iadd", "cat"]
    lines = [(rng.choice(list(OPERATIONS)), -rng.randint(1, 3), -rng.randint(1, 4), rng.choice(hows)) for _ in range(rng.randint(2, 6))]
    torch.manual_seed(seed)
    net, x = Program(lines), torch.randn(4, 3, 9, 9)
    try:
        with torch.no_grad():
            net(x.clone())
            net.eval()(x.clone())
    except RuntimeError:
        return None
    return net, x


def check(seeds: range) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in seeds:
        if (made := program(seed)) is None:
            continue
        net, x = made
        assert_shuffled(net, x)
        quantized = overq.quantize(net, [x], PLAIN)
        outcome = integers(quantized, x)
        if isinstance(outcome, str):
            assert re.match(r"operation '\w+' \(\w+\) has no integer form", outcome), (outcome, net.lines)
        else:
            assert outcome > 40, net.lines
        found["refused" if isinstance(outcome, str) else "followed"] += 1
    return found


def integers(model: nn.Module, x: torch.Tensor) -> float | str:
    """SQNR of the integer network, or why there is none."""
    try:
        return integer_network(model, check=x).sqnr or 0.0
    except InputError as error:
        return str(error)


def assert_shuffled(net: Program, x: torch.Tensor) -> None:
    """Channels may change places wherever the streams say so."""
    streams = Streams(net)
    targets = {atom: members[i - 1] for members in streams.classes() for i, atom in enumerate(members)}
    with torch.no_grad():
        expected, got = net.double()(x.double()), permuted(net, streams, targets)(x.double())
    net.float()
    assert torch.allclose(expected, got, rtol=1e-9, atol=1e-9), net.lines


def test_programs_are_followed_or_refused() -> None:
    found = check(range(40))
    assert found["followed"] > 20
    assert found["refused"] > 5


@pytest.mark.slow
def test_three_thousand_programs_are_followed_or_refused() -> None:
    check(range(40, 3040))


def test_what_is_read_is_what_runs() -> None:
    for seed in range(100, 140):
        if (made := program(seed)) is None:
            continue
        net, x = made
        graph = read(net)
        if not any("changed memory" in node.why for node in graph.live()):
            with torch.no_grad():
                *_, (_, got) = graph.run(x.clone())
                assert torch.equal(got, net(x.clone())), net.lines
