"""Channel equalization: per-channel input scales, folded into the weights of the input channels.

One step serves a whole tensor, so a channel with a small range gets few of its levels. Dividing channel j by s_j and multiplying
the weights that read it by s_j leaves the float function as it was and evens out the ranges:

    s_j = range_j^α / geometric mean over j,    range_j = the given percentile of |x_j| on the sample

α = 0 changes nothing; α = 1 gives all channels one range and leaves the whole spread to the weights, whose scale is per output
channel: what the activations gain, the weights lose. In hardware the producer's requantization, which has one multiplier per
channel, absorbs 1 / s_j; a tensor that several layers read then needs one s for all of them, or a requantization for each.

Source: the exchange of per-channel scales between layers is that of Nagel et al. 2019 (arXiv 1906.04721, section 4.1); the exponent
is that of SmoothQuant (Xiao et al. 2022, arXiv 2211.10438, equation 4), without its weight term unless "smooth" asks for all of it:
s_j = range_j^0.5 / range of the weights that read channel j^0.5.

"balanced" (ours) takes rms values for ranges: s_j = (rms of x_j / rms of the weights that read channel j)^0.5. Where a step is in
proportion to a vector's rms, as with outliers that have bits of their own, the output's error is in proportion to the sum of (s_j w_j)²
times that of (x_j / s_j)², and those scales make it least.
"""

from __future__ import annotations

import numpy as np
import torch

from overq import calib
from overq.methods import Fitted
from overq.nn.layers import Arrangement
from overq.nn.weights import weight_rows

BALANCED = "balanced"
PERCENT = 99.9  # of |x_j|: a single far value does not set a channel's range
SMOOTH, SMOOTH_EXPONENT = "smooth", 0.5  # SmoothQuant's rule, and its usual exponent
ROWS = 1024  # sampled vectors that exponents are compared on
SMALLEST = 1 / 256  # of the largest range: a channel that is almost always zero is not blown up beyond this


def channel_scales(sample: np.ndarray, exponent: float, rows: np.ndarray | None = None) -> torch.Tensor:
    """Float32 [K], positive, geometric mean 1, of channel vectors [M, K]; the exponent is α.

    rows: float [R, K], the weights that read the channels; their ranges then count with the exponent α - 1.
    """
    ranges = np.percentile(np.abs(sample), PERCENT, axis=0)
    if not ranges.max():
        ranges = np.abs(sample).max(axis=0)
    if not ranges.max():
        return torch.ones(sample.shape[1])
    logs = exponent * np.log(np.maximum(ranges / ranges.max(), SMALLEST))
    if rows is not None:
        read = np.abs(rows).max(axis=0)
        logs = logs - (1 - exponent) * np.log(np.maximum(read / (read.max() or 1.0), SMALLEST))
    return torch.from_numpy(np.exp(logs - logs.mean()).astype(np.float32))


def balanced_scales(vectors: np.ndarray, rows: np.ndarray) -> torch.Tensor:
    """Float32 [K], positive, geometric mean 1, of channel vectors [M, K], which count alike whatever their size, and weights [R, K]."""
    sizes = np.sqrt(np.square(vectors, dtype=np.float64).mean(axis=1, keepdims=True))
    values, read = (np.sqrt(np.square(a, dtype=np.float64).mean(axis=0)) for a in (vectors / np.where(sizes > 0, sizes, 1.0), rows))
    logs = [np.log(np.maximum(a / (a.max() or 1.0), SMALLEST)) / 2 for a in (values, read)]
    return torch.from_numpy(np.exp(logs[0] - logs[1] - (logs[0] - logs[1]).mean()).astype(np.float32))


def output_error(weight: torch.Tensor, sample: np.ndarray, arrangement: Arrangement, fitted: Fitted, weight_bits: int) -> float:
    """Sum of squares of a layer's output error on channel vectors [M, K], inputs and weights quantized.

    weight: the float layer's [O, K, ...]. Kernel taps count on their own, because the sample holds vectors of single positions.
    """
    sample, weight = calib.thinned(sample, ROWS), weight.detach().float().cpu()
    decoded = arrangement.decoded(fitted, sample)
    rounded = fitted.method.weights(arrangement.weight(weight), weight_bits)
    return float(np.square(sample @ weight_rows(weight).T - decoded @ weight_rows(rounded).T).sum(dtype=np.float64))
