"""Which batch norms of a model still know what their inputs were like in training."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from overq.errors import CalibrationError
from overq.nn.graph import is_norm

HELP = "give calibration images, or load a checkpoint that has its batch norm statistics"


def flaw(norm: _BatchNorm) -> str:
    """Why the norm's statistics say nothing; empty where they are usable."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return "keeps no running statistics"
    if not (torch.isfinite(mean).all() and torch.isfinite(variance).all() and (variance >= 0).all()):
        return "has running statistics that are not finite"
    if (mean == 0).all() and (variance == 1).all():
        return "has mean 0 and variance 1 (never trained, or folded into the weights)"
    return ""


def usable_norms(model: nn.Module) -> list[_BatchNorm]:
    """Every batch norm with statistics. CalibrationError in one line where there is none."""
    norms = {name: module for name, module in model.named_modules() if is_norm(module)}
    if not norms:
        raise CalibrationError(f"data-free calibration: the model has no batch norm; {HELP}")
    usable = [norm for norm in norms.values() if not flaw(norm)]
    if not usable:
        name, norm = next(iter(norms.items()))
        raise CalibrationError(f"data-free calibration: none of the {len(norms)} batch norms is usable: {name!r} {flaw(norm)}; {HELP}")
    return usable


def output_moments(norm: _BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """(mean, std) of the norm's output over the training data, float64 [C]: β and |γ| √(v / (v + ε))."""
    assert norm.running_var is not None
    variance = norm.running_var.detach().double()
    gain = torch.ones_like(variance) if norm.weight is None else norm.weight.detach().double()
    shift = torch.zeros_like(variance) if norm.bias is None else norm.bias.detach().double()
    return shift.cpu().numpy(), (gain.abs() * (variance / (variance + norm.eps)).sqrt()).cpu().numpy()
