"""Bias correction: the mean error that quantization leaves in a layer's output is taken out of its bias.

With y the float layer's output and ŷ the quantized one's, the error y - ŷ has a mean per output channel: rounded weights times a
nonzero mean input, and clipped inputs whose mean is too small. A constant shift is free in hardware, and

    b += E[y - ŷ]                   minimizes E[(y - ŷ - shift)²] over constant shifts.

y is of the float network, ŷ of the quantized network in which all layers before are already corrected, so that each layer also
takes out what the errors before it did to its mean.

Source: Finkelstein et al. 2019, "Fighting quantization bias with bias" (arXiv 1906.03193); Nagel et al. 2019 (arXiv 1906.04721, 4.2).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from overq.errors import CalibrationError
from overq.nn.layers import CHANNEL_DIM, Quantized, give_bias, kind
from overq.nn.observation import Forward, Observations, batches, home, moved, run


def check_repeatable(samples: Any) -> None:
    """Refuse samples that cannot be run a second time."""
    if isinstance(samples, Observations):
        raise CalibrationError("bias correction runs the samples again: give them to quantize, the observations as seen=")
    if isinstance(samples, Iterable) and iter(samples) is samples:
        raise CalibrationError("bias correction runs the samples again: give a tensor, a list or a loader, not a one-way iterator")


class _Mean:
    """Running mean per channel over calls: float64 [O] and the positions it is of."""

    def __init__(self) -> None:
        self.sum: torch.Tensor | float = 0.0
        self.count = 0

    def add(self, y: torch.Tensor, dim: int) -> None:
        rows = y.detach().movedim(dim, -1).reshape(-1, y.shape[dim])
        self.sum = self.sum + rows.sum(0, dtype=torch.float64)
        self.count += len(rows)

    @property
    def value(self) -> torch.Tensor:
        assert isinstance(self.sum, torch.Tensor)
        return self.sum / self.count


def correct_biases(quantized: nn.Module, model: nn.Module, samples: Any, *, forward: Forward = run) -> None:
    """Change the biases of `quantized`, made by `quantize` from `model`, in place: one run of the samples for each layer.

    Layers without a bias get one. Memory is one mean per channel and layer, whatever the number of samples.
    """
    layers: dict[str, Any] = {name: m for name, m in quantized.named_modules() if isinstance(m, Quantized)}
    wanted = _float_means(model, set(layers), samples, forward)
    for name, target in wanted.items():
        layer, found = layers[name], _Mean()

        def record(module: Any, args: Any, output: torch.Tensor, found: _Mean = found) -> None:
            found.add(output, CHANNEL_DIM[kind(module)])

        with _hooked({name: layer}, record):
            _run(quantized, samples, forward)
        give_bias(layer)
        layer.bias.data = (layer.bias.data.double() + (target.value - found.value)).to(layer.bias.dtype)


def _float_means(model: nn.Module, names: set[str], samples: Any, forward: Forward) -> dict[str, _Mean]:
    """Mean output of the layers, in the order they run."""
    model = copy.deepcopy(model).eval()
    means: dict[str, _Mean] = {}
    named = {module: name for name, module in model.named_modules() if name in names}

    def record(module: Any, args: Any, output: torch.Tensor) -> None:
        means.setdefault(named[module], _Mean()).add(output, CHANNEL_DIM[kind(module)])

    with _hooked({name: module for module, name in named.items()}, record):
        _run(model, samples, forward)
    return means


@contextmanager
def _hooked(modules: dict[str, nn.Module], hook: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(model: nn.Module, samples: Any, forward: Forward) -> None:
    device, dtype = home(model)
    with torch.no_grad():
        for batch in batches(samples):
            forward(model, moved(batch, device, dtype))
