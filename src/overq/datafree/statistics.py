"""observe_statistics: what every layer's input is like, from the model's batch norms alone.

Data-free quantization from batch norm statistics: Nagel et al., "Data-free quantization through weight equalization and bias
correction" (ICCV 2019). γ and β are the standard deviation and mean of a norm's output; the rest is propagated. Assumed:

- a norm's output follows `law` in each channel;
- channels, and all values of a channel vector, are independent (real ones are not: large values come together);
- the summands of a residual sum have correlation `correlation`, and their sum follows the law again;
- pixels of an averaging window are equal, those of a maximum's window independent Gaussians;
- the image is standard normal, clipped at ± `reach`: 3 covers ImageNet's normalization (-2.12 … 2.64). The first layer keeps
  8 plain bits reaching the maximum by default, so that only `reach` matters there.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
from torch import nn

from overq.calib import Observed
from overq.calib.observed import BINS, DECAY
from overq.datafree.clipped import Clipped, law
from overq.datafree.norms import usable_norms
from overq.datafree.propagation import propagate
from overq.errors import FormatError
from overq.nn.layers import input_groups
from overq.nn.observation import Observations
from overq.nn.replica import ready

VALUES = 1 << 20  # how many values the histogram counts; extremes are where less than one of them lies beyond


def observe_statistics(
    model: nn.Module, *, seed: int = 0, distribution: str = "laplace", correlation: float = 0.0, reach: float = 3.0
) -> Observations:
    """Observations for `quantize` without any sample.

    seed          of the drawn channel vectors
    distribution  of a batch norm's output in one channel: "gauss", or "laplace" (the same mean and variance, heavier tails)
    correlation   assumed between the two summands of a residual sum, -1 to 1
    reach         the image's greatest magnitude

    Raises CalibrationError where the model's batch norms do not tell the input of every layer.
    """
    if not -1 <= correlation <= 1:
        raise FormatError(f"correlation must be from -1 to 1, not {correlation:g}")
    if not (reach > 0 and np.isfinite(reach)):
        raise FormatError(f"reach must be a positive number, not {reach:g}")
    scales = law(distribution)
    model = ready(model, borrow=True)
    usable_norms(model)
    image = Clipped.free(np.zeros(1), np.ones(1)).clip(-reach, reach)
    seen = Observations()
    read: dict[tuple[int, int], tuple[Clipped, str]] = {}  # tensors, and who reads them first
    for name, module, values in propagate(model, image, scales, correlation):
        first = read.setdefault((id(values), input_groups(module)), (values, name))[1]
        if first != name and name not in seen.layers:  # it reads the same tensor
            seen.layers[name], seen.tensors[name] = seen.layers[first], first
            continue
        one = observed(values, input_groups(module), np.random.default_rng([seed, crc32(name.encode()), name in seen.layers]))
        seen.layers[name] = seen.layers[name].merge(one) if name in seen.layers else one
    return seen


def observed(values: Clipped, groups: int, rng: np.random.Generator) -> Observed:
    """What an observer of a tensor with these channels would have recorded: expected histogram, drawn channel vectors."""
    low, high = _extremes(values)
    result = Observed(low, high, batches=1, moving=((1 - DECAY) * low, (1 - DECAY) * high))
    while result.limit <= max(abs(low), abs(high)):
        result.limit *= 2
    edges = np.arange(-BINS, BINS + 1) * (result.limit / BINS)
    result.histogram = np.rint(VALUES * np.diff(values.below(edges))).astype(np.int64)
    result.values = int(result.histogram.sum())
    lanes = values.channels // groups
    room = result.room(lanes)
    vectors = values.draw(-(-room // groups), rng).reshape(-1, lanes)[:room]
    result.add_sample(np.clip(vectors, low, high).astype(np.float32), rng.random(len(vectors)))
    return result


def _extremes(values: Clipped) -> tuple[float, float]:
    """Float32 numbers beyond which lie less than 1 of `VALUES` values; exactly the clip points where there are many."""
    far = float(np.max(np.abs(values.mean) + 20 * values.std * max(values.scales)))
    bottom, top = max(-far, float(values.low.min())), min(far, float(values.high.max()))

    def quantile(share: float) -> float:
        low, high = bottom, top
        for _ in range(36):
            middle = (low + high) / 2
            low, high = (middle, high) if values.below(np.array([middle]))[0] < share else (low, middle)
        return float(np.float32(high if share > 0.5 else low))

    return quantile(1 / VALUES), quantile(1 - 1 / VALUES)
