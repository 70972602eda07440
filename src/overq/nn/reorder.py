"""Channel reordering: an order of a layer's input channels in which outliers meet zeros.

An outlier is served if a zero follows within `cascade` lanes, so outlier-prone channels belong directly before zero-prone ones.
"""

from __future__ import annotations

import numpy as np
import torch

from overq.spec import Format


def lane_order(sample: np.ndarray, step: float, fmt: Format) -> torch.Tensor:
    """int64 [K]: lane i carries channel order[i]; from channel vectors float32 [M, K].

    The half of the channels that is most often an outlier alternates with the other half, the one that is most often zero first.
    """
    levels = np.floor(sample / step + 0.5)
    outliers = ((levels < fmt.digit_min) | (levels > fmt.digit_max)).mean(axis=0)
    zeros = (levels == 0).mean(axis=0)
    rank = np.argsort(zeros - outliers, kind="stable")
    half = len(rank) // 2
    order = np.empty_like(rank)
    order[: 2 * half : 2], order[1 : 2 * half : 2] = rank[:half], rank[::-1][:half]
    if len(rank) % 2:
        order[-1] = rank[half]
    return torch.from_numpy(order.astype(np.int64))
