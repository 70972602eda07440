"""distill: synthetic images whose batch norm statistics are those of the training data.

Cai et al., "ZeroQ: A novel zero shot quantization framework" (CVPR 2020): images start as noise and are optimized, through the
network, until the mean and standard deviation of every batch norm's input are its running ones. The image itself is held to
mean 0 and standard deviation 1 per channel, as normalized images have, and within ± `reach`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from overq.datafree.norms import usable_norms
from overq.errors import CalibrationError, InputError
from overq.nn.replica import ready
from overq.nn.trees import home


def distill(
    model: nn.Module,
    shape: tuple[int, ...],
    count: int = 64,
    *,
    seed: int = 0,
    steps: int = 100,
    rate: float = 0.1,
    reach: float = 3.0,
    batch_size: int = 64,
) -> Tensor:
    """Float32 [count, *shape] on the CPU: samples for `observe` or `quantize`; the given model is left as it was.

    shape       of one image, [C, H, W]
    count       images; `batch_size` of them share their statistics, so fewer than 16 at a time match badly
    steps       of Adam for each batch, its learning rate falling from `rate` to 0 along a cosine. Time is proportional to
                count · steps: one forward and one backward pass each
    seed        of the noise that the images start from

    Raises CalibrationError where no batch norm has statistics, InputError for an image that the model does not take.
    """
    if count < 1 or steps < 1 or batch_size < 1:
        raise InputError(f"count, steps and batch_size must be at least 1, not {count}, {steps} and {batch_size}")
    usable_norms(model)
    model = ready(model, borrow=True).requires_grad_(False)
    losses: list[Tensor] = []
    hooks = [norm.register_forward_pre_hook(_compare(norm, losses)) for norm in usable_norms(model)]
    generator = torch.Generator().manual_seed(seed)
    device, dtype = home(model)
    try:
        done = [
            _batch(
                model,
                torch.randn(min(batch_size, count - start), *shape, generator=generator).to(device, dtype),
                losses,
                steps,
                rate,
                reach,
            )
            for start in range(0, count, batch_size)
        ]
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(done).float().cpu()


def _batch(model: nn.Module, x: Tensor, losses: list[Tensor], steps: int, rate: float, reach: float) -> Tensor:
    x = x.clamp_(-reach, reach).requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    zero, one = torch.zeros(x.shape[1], device=x.device, dtype=x.dtype), torch.ones(x.shape[1], device=x.device, dtype=x.dtype)
    for _ in range(steps):
        losses.clear()
        try:
            model(x)
        except (RuntimeError, ValueError, TypeError) as error:
            text = " ".join(str(error).split())[:200]
            raise InputError(f"the model does not take images of shape {list(x.shape[1:])}: {text}") from error
        if not losses:
            raise CalibrationError("data-free calibration: the model ran none of its batch norms; give calibration images")
        loss = torch.stack([*losses, _distance(x, zero, one)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            x.clamp_(-reach, reach)
    return x.detach()


def _compare(norm: _BatchNorm, losses: list[Tensor]) -> Callable[..., None]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, deviation = norm.running_mean, (norm.running_var + norm.eps).sqrt()

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        losses.append(_distance(args[0], mean, deviation))

    return hook


def _distance(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Mean over channels of the squared errors of mean and standard deviation, both in units of the wanted deviation.

    Wanted deviations come with the norm's ε added to the variance, and so does the measured one: its root stays differentiable at 0.
    """
    axes = [0, *range(2, x.ndim)]
    spread = (x.var(axes, unbiased=False) + 1e-5).sqrt()
    return ((x.mean(axes) - mean) / deviation).square().mean() + (spread / deviation - 1).square().mean()
