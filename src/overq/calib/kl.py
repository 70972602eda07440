"""KL (entropy) calibration: the clip point at which the quantized histogram tells least less than the original.

After Migacz, "8-bit inference with TensorRT" (GTC 2017): reference P = histogram of magnitudes up to the clip point, the tail
added to its last bin; candidate Q = the same bins without the tail, each level's count spread evenly over that level's occupied
bins. Ours differs in one thing: the levels are the format's own (nearest multiples of the step), not equal slices of the bins.
The bin of zeros is left out, since every step spells zero exactly.
"""

from __future__ import annotations

import numpy as np

from overq.calib.absmax import absmax
from overq.calib.observed import BINS, Observed
from overq.calib.step import rounded
from overq.spec import Format

CANDIDATES = 160
_FLOOR = 1e-9  # Q's share where it has nothing but P has: finite, yet dear


def kl(observed: Observed, fmt: Format) -> float:
    """The step with the least KL divergence of magnitudes; max where nothing but zeros falls into the histogram's bins."""
    counts = (observed.histogram[BINS:] + observed.histogram[:BINS][::-1]).astype(np.float64)
    counts[0] = 0.0
    if not counts.any():
        return absmax(observed, fmt)
    last = int(np.flatnonzero(counts)[-1]) + 1
    first = min(last, max(2, last // 64))
    clips = np.unique(np.geomspace(first, last, CANDIDATES).round().astype(int))
    divergences = [_divergence(counts, clip, fmt.digit_max) for clip in clips if counts[:clip].any()]
    usable = [clip for clip in clips if counts[:clip].any()]
    least = min(divergences)
    clip = max(c for c, d in zip(usable, divergences, strict=True) if d <= least + 1e-12)  # of equals, the one that clips least
    return rounded(min(clip * observed.limit / BINS, observed.largest) / fmt.digit_max)


def _divergence(counts: np.ndarray, clip: int, levels: int) -> float:
    kept = counts[:clip]
    reference = kept.copy()
    reference[-1] += counts[clip:].sum()
    level = np.minimum(np.floor((np.arange(clip) + 0.5) * levels / clip + 0.5).astype(int), levels)
    occupied = kept > 0
    totals, spread = np.bincount(level, kept), np.bincount(level, occupied)
    candidate = np.where(occupied, totals[level] / np.maximum(spread[level], 1), 0.0)
    p, q = reference / reference.sum(), candidate / candidate.sum()
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], _FLOOR))))
