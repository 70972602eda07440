"""Bias correction: mean and spread of every layer's output are made the float layer's again, channel by channel.

With y the float layer's output, ŷ the quantized one's, μ and σ their means and standard deviations per output channel over the samples,

    ŷ  <-  σ(y) / σ(ŷ) · (ŷ - μ(ŷ)) + μ(y)

A shift is the bias, a factor the channel's weight scale: both are free in hardware, no integer weight changes. Rounded weights times a
nonzero mean input, and clipped inputs, move the mean; clipping, and rounding to the scale of least error, shrink the spread by a few
percent a layer. Mean alone is not enough: corrected means with spreads that shrink from layer to layer end in a network that says the same
to every input (ImageNet ResNet-18, W4 A8, 260 images: 51 % top-1 uncorrected, 0 % with corrected means, 68 % with both; 75 % in float).

y is of the float network, ŷ of the quantized network in which all layers before are already corrected, so that each layer also
takes out what the errors before it did to its output.

Source: Banner et al. 2019, "Post training 4-bit quantization of convolutional networks for rapid-deployment" (arXiv 1810.05723), which
restores mean and norm of each channel's weights; of outputs, mean only: Finkelstein et al. 2019, "Fighting quantization bias with bias"
(arXiv 1906.03193), Nagel et al. 2019 (arXiv 1906.04721, 4.2).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from overq.errors import CalibrationError
from overq.nn.layers import CHANNEL_DIM, Quantized, can_quantize, give_bias, kind
from overq.nn.observation import Forward, Observations, batches, home, moved, run
from overq.nn.weights import dequantize_weight

ENOUGH = 64  # images; as one batch they are corrected in one run
GAINS = (0.5, 2.0)  # a channel that hardly moves on the samples is not blown up, nor one that hardly moved in float shut off


@dataclass(frozen=True)
class Outputs:
    """What the layers of a model give on samples: moments by layer name, in the order they run."""

    moments: dict[str, Moments]
    samples: Any
    forward: Forward
    batches: int


class Moments:
    """Mean and standard deviation of a layer's output, per channel over all positions of all its calls; float64 [O]."""

    def __init__(self) -> None:
        self.sum: torch.Tensor | float = 0.0
        self.squares: torch.Tensor | float = 0.0
        self.count = self.calls = 0

    def add(self, layer: Any, y: torch.Tensor) -> None:
        rows = y.detach().movedim(CHANNEL_DIM[kind(layer)], -1).flatten(0, -2)
        self.sum = self.sum + rows.sum(0, dtype=torch.float64)
        self.squares = self.squares + rows.float().square().sum(0, dtype=torch.float64)
        self.count += len(rows)
        self.calls += 1

    @property
    def mean(self) -> torch.Tensor:
        assert isinstance(self.sum, torch.Tensor)  # something was added
        return self.sum / self.count

    @property
    def std(self) -> torch.Tensor:
        return (self.squares / self.count - self.mean.square()).clamp(min=0).sqrt()


def check_repeatable(samples: Any) -> None:
    """Refuse samples that cannot be run a second time."""
    if isinstance(samples, Observations):
        raise CalibrationError("bias correction runs the samples again: give them to quantize, the observations as seen=")
    if isinstance(samples, Iterable) and iter(samples) is samples:
        raise CalibrationError("bias correction runs the samples again: give a tensor, a list or a loader, not a one-way iterator")


def observe_outputs(model: nn.Module, samples: Any, *, forward: Forward = run) -> Outputs:
    """Run the samples through a model, float or quantized. Memory: a few numbers per channel and layer, whatever the number of samples."""
    model = copy.deepcopy(model).eval()
    named = {module: name for name, module in model.named_modules() if can_quantize(module) or isinstance(module, Quantized)}
    found: dict[str, Moments] = {}

    def record(layer: Any, args: Any, y: torch.Tensor) -> None:
        found.setdefault(named[layer], Moments()).add(layer, y)

    with _hooked(named, record):
        count = _run(model, samples, forward)
    return Outputs(found, samples, forward, count)


def correct_outputs(quantized: nn.Module, outputs: Outputs, names: Iterable[str]) -> None:
    """Change biases and weight scales of the layers `names` of `quantized`, in place. Layers without a bias get one.

    Layer by layer, in the order they run: the samples go through the corrected layers before it and stop there, so the whole costs as
    much as half as many runs of the samples as there are layers. Where the samples are one batch it is one run: each layer is
    corrected as the batch passes. (One run of several batches, each layer corrected by the mean of those so far, leaves up to a fifth of
    a layer's mean as error on CIFAR-10 ResNet-20, and repeating such runs does not converge.)
    """
    layers: dict[str, Any] = dict(quantized.named_modules())
    wanted = {layers[name]: target for name, target in outputs.moments.items() if name in set(names)}

    def correct_passing(layer: Any, args: Any, y: torch.Tensor) -> torch.Tensor:
        found = Moments()
        found.add(layer, y)
        gain, shift = _correct(layer, wanted[layer], found)
        shape = (-1,) + (1,) * (-1 - CHANNEL_DIM[kind(layer)])
        return y * gain.to(y.dtype).reshape(shape) + shift.to(y.dtype).reshape(shape)

    if all(target.calls == outputs.batches == 1 for target in wanted.values()):
        with _hooked(wanted, correct_passing):
            _run(quantized, outputs.samples, outputs.forward)
        return
    for layer, target in wanted.items():
        found, once = Moments(), target.calls == outputs.batches

        def record(layer: Any, args: Any, y: torch.Tensor, found: Moments = found, once: bool = once) -> None:
            found.add(layer, y)
            if once:
                raise _Reached

        with _hooked({layer}, record):
            _run(quantized, outputs.samples, outputs.forward)
        _correct(layer, target, found)


def _correct(layer: Any, target: Moments, found: Moments) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the layer the target's mean and spread; (gain, shift) float64 [O] that do the same to its present output."""
    still = (found.std == 0) | (target.std == 0)
    gain = torch.where(still, 1.0, target.std / found.std).clamp(*GAINS)
    give_bias(layer)
    if isinstance(layer, Quantized):
        layer.weight_scale = (layer.weight_scale.double() * gain).to(torch.float32)
        weight = dequantize_weight(layer.weight_integers, layer.weight_scale, torch.float32)
    else:
        weight = layer.weight.double() * gain.reshape(-1, *[1] * (layer.weight.ndim - 1))
    layer.weight.data = weight.to(layer.weight.dtype)
    shift = target.mean - gain * found.mean
    layer.bias.data = (gain * layer.bias.double() + shift).to(layer.bias.dtype)
    return gain, shift


class _Reached(Exception):  # noqa: N818  # no error: ends a run whose rest nobody looks at
    pass


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(model: nn.Module, samples: Any, forward: Forward) -> int:
    """All batches through the model; how many they were."""
    device, dtype = home(model)
    count = 0
    with torch.no_grad():
        for batch in batches(samples):
            with suppress(_Reached):
                forward(model, moved(batch, device, dtype))
            count += 1
    return count
