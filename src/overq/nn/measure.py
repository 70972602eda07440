"""Count zeros, outliers and served values while a quantized model runs on real data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from overq import kernels
from overq.nn.layers import Quantized, input_groups
from overq.spec import Counts


@contextmanager
def count_lanes(model: nn.Module) -> Iterator[dict[str, Counts]]:
    """Within the `with` block, the lane counts of every layer that overwrites its input, by dotted name, growing call by call."""
    totals: dict[str, Counts] = {}

    def watch(name: str) -> Any:
        def hook(layer: Quantized, args: tuple[torch.Tensor, ...]) -> None:
            x, fmt = args[0].detach(), layer.format
            vectors = x.movedim(layer.channel_dim, -1).unflatten(-1, (input_groups(layer), -1))
            array = kernels.get("array")
            totals[name] = totals.get(name, Counts()) + kernels.get("auto", fmt).counts(array.fixed(vectors, layer.step, fmt), fmt)

        return hook

    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, Quantized) and m.format.cascade]
    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers]
    try:
        yield totals
    finally:
        for hook in hooks:
            hook.remove()
