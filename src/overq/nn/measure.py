"""Count zeros, outliers and served values while a quantized model runs on real data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from overq import kernels
from overq.nn.layers import input_groups
from overq.nn.quantized import Quantized
from overq.nn.spelled import on_lanes
from overq.spec import Counts


@contextmanager
def count_lanes(model: nn.Module) -> Iterator[dict[str, Counts]]:
    """Within the `with` block, the lane counts of every layer that overwrites its input, by dotted name, growing call by call."""
    totals: dict[str, Counts] = {}

    def watch(name: str) -> Any:
        def hook(layer: Quantized, args: tuple[torch.Tensor, ...]) -> None:
            assert layer.lanes is not None
            x, fmt, dim = on_lanes(layer.laid(args[0].detach()), layer.lanes, layer.channel_dim, input_groups(layer))
            counted = kernels.get("auto", fmt, x.device.type).overwrite_counted(x, layer.lanes[1], fmt, dim)[1]
            totals[name] = totals.get(name, Counts()) + counted

        return hook

    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, Quantized) and m.lanes is not None and m.lanes[0].cascade]
    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers]
    try:
        yield totals
    finally:
        for hook in hooks:
            hook.remove()
