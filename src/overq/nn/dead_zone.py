"""Dead zone: small values of a layer's input are made zeros on purpose, so that they can serve their neighbours.

An OverQ zero is a place for an outlier's or a fraction's digit, and how many there are depends on the step alone. With a threshold d, a
value x counts as zero where

    |x| < d[0] + d[1] · rms of its vector

before it is quantized: that costs x² of error for each value, and pays where the places win more. d[1] serves methods whose steps follow
each vector or block, where it is a constant number of steps; d[0] those of one step a tensor. A method that has no use for zeros only pays.

In hardware: one comparison a value, in front of the encoder.

Search: for each threshold the step is calibrated behind it; a value made zero decodes as zero under every step, so its error does not
depend on the step, and both are found together. Thresholds are tried in turn until, at the step that was found without one,
the layers' outputs err clearly more; that of least error stays (`nn.fit`).

Source: thresholds that make zeros of small activations without training are those of TEAL (Liu et al. 2024, arXiv 2408.14690), there for
speed, and in proportion to a layer's distribution; that the zeros pay in the other values' bits, and the rule by error, are ours.
"""

from __future__ import annotations

import numpy as np
import torch

THRESHOLDS = (0.1, 0.12, 0.14, 0.16, 0.18, 0.21, 0.24, 0.28, 0.32, 0.37, 0.43, 0.5, 0.58)  # of the rms, tried in turn
WORSE = 1.1  # times the error without one, at the same step: the search ends


def dead_zone(threshold: float, sample: np.ndarray, each: bool) -> torch.Tensor:
    """d, float32 [2], for a threshold in units of the rms: of each vector, or of the whole sample float32 [M, K]."""
    size = float(np.sqrt(np.square(sample, dtype=np.float64).mean()))
    return torch.tensor((0.0, threshold) if each else (threshold * size, 0.0), dtype=torch.float32)


def cleared(x: torch.Tensor, d: torch.Tensor, dim: int) -> torch.Tensor:
    """x with zeros for its small values; vectors along `dim`; same shape and dtype."""
    absolute, relative = d.to(device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    size = x.abs().to(absolute.dtype)
    bar = absolute + relative * size.square().mean(dim, keepdim=True).sqrt()
    return torch.where(size < bar, torch.zeros_like(x), x)
