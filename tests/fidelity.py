"""Small networks and measures of the fidelity tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from overq import Format, Recipe
from overq.nn import Quantized

A8 = Recipe(Format.plain(8), first=None, last=None)
A2 = Recipe(Format.plain(2), first=None, last=None)
OVERQ = Recipe(Format(3, 4), first=None, last=None)
X = torch.randn(32, 8, 9, 9, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(16, 7, 32, generator=torch.Generator().manual_seed(1))


def conv(channels: int = 8) -> nn.Conv2d:
    return nn.Conv2d(8, channels, 3, padding=1)


def net(first: nn.Module | None = None, last: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(first or conv(), nn.ReLU(), last or conv()).eval()


def sqnr(wanted: torch.Tensor, got: torch.Tensor) -> float:
    wanted, got = wanted.detach(), got.detach()
    noise = (got.double() - wanted.double()).square().sum()
    return float(10 * torch.log10(wanted.double().square().sum() / noise)) if noise else float("inf")


def ran(model: nn.Module, call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What the call gives, and which quantizers it ran; told without hooks, which would switch fused paths off."""
    names: list[str] = []
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, Quantized)]
    for name, layer in layers:
        layer.quantize_input = lambda x, name=name, layer=layer: (names.append(name), type(layer).quantize_input(layer, x))[1]
    try:
        return call(), names
    finally:
        for _, layer in layers:
            del layer.quantize_input
