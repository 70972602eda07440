"""Which modules can be quantized, and why others stay float."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn.utils import parametrize

from overq.nn.layers import CHANNEL_DIM, FloatLayer, base_of
from overq.nn.quantized import Quantized
from overq.nn.replica import computed


def can_quantize(module: nn.Module) -> TypeGuard[FloatLayer]:
    """Whether it is a convolution or a matrix product whose call computes that class's own forward with a weight of its own."""
    return not why_float(module)


def why_float(module: nn.Module) -> str:
    """Why a module cannot be quantized; empty where it can."""
    what = type(module).__name__
    base: Any = base_of(module)
    if base is None:
        return f"{what} is not a layer that overq quantizes"
    if isinstance(module, Quantized):
        return f"{what} is quantized already"
    if type(module).forward is not base.forward:
        return f"{what} has a forward of its own"
    if "forward" in vars(module):
        return "patched forward"
    if type(module).get_extra_state is not nn.Module.get_extra_state:
        return f"{what} has a state of its own besides its tensors"
    for name in ("weight", "bias"):
        if not _own_parameter(module, name):
            return f"its {name} is no parameter, but computed in a way that overq does not know"
    weight: Any = module._parameters.get("weight", vars(module).get("weight"))  # no attribute access: torch.fx would trace it
    if isinstance(weight, nn.UninitializedParameter):
        return "its weight does not exist yet: run the model once"
    if weight is not None and (not weight.is_floating_point() or weight.ndim != 1 - CHANNEL_DIM.get(base, -1)):
        return f"its weight is {str(weight.dtype).removeprefix('torch.')} {list(weight.shape)}"
    if _patched_convolution(module, base) and not _convolves(module):
        return "patched _conv_forward that does more than convolve"
    return ""


def _own_parameter(module: nn.Module, name: str) -> bool:
    """Whether that tensor is a parameter of the module, or computed from some as weight norm and parametrizations do; or no bias."""
    if name in module._parameters:
        return module._parameters[name] is not None or name == "bias"
    known = [computed_name for _, computed_name in computed(module)]
    return name in known or parametrize.is_parametrized(module, name)


def _patched_convolution(module: nn.Module, base: Any) -> bool:
    """Whether an instance or a subclass convolves in its own way, e.g. with circular padding to make tiles."""
    return base in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and (
        "_conv_forward" in vars(module) or getattr(type(module), "_conv_forward", None) is not base._conv_forward
    )


def _convolves(module: Any) -> bool:
    """Whether its `_conv_forward(input, weight, bias)` is linear in input and weight, as a convolution is; tried on random numbers."""
    shape = [extent * (k - 1) + 5 for extent, k in zip(module.dilation, module.kernel_size, strict=True)]
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(1, module.in_channels, *shape, generator=generator).to(module.weight) for _ in "xy")
    v, w = (torch.randn(module.weight.shape, generator=generator).to(module.weight) for _ in "vw")
    try:
        with torch.no_grad():
            one, other, both = (module._conv_forward(x, weight, None) for weight in (v, w, v + w))
            more, sum_ = (module._conv_forward(inputs, v, None) for inputs in (y, x + y))
    except Exception:  # whatever a patch does with inputs that it does not expect
        return False
    size = float(one.norm() + other.norm() + more.norm()) * torch.finfo(one.dtype).eps ** 0.5
    return all(bool((a + b - c).norm() <= size) for a, b, c in ((one, other, both), (one, more, sum_))) and bool(one.norm() > 0)
