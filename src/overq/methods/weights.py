"""Weight quantization shared by all methods: symmetric, one scale per output channel (design, section 1.5).

Eight bits and more have room for a channel's whole range, so its greatest magnitude becomes the greatest integer. Below eight bits a
channel's few largest weights would leave the rest with a handful of levels: there the scale is the one of least squared error among
fixed fractions of that, and what lies beyond is clipped.
"""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np

from overq.errors import FormatError, InputError

Array = Any

WHOLE_RANGE_BITS = 8  # from here on nothing is clipped
AT_ONCE = 1 << 22  # weights that are rounded together: what that takes beside the weights themselves
FRACTIONS = tuple(k / 40 for k in range(40, 7, -1))  # of the scale that clips nothing; on a tie the greater


def integers(w: Array, bits: int) -> tuple[Array, Array]:
    """Weights [outputs, inputs, ...] -> (int8 or int16 levels of the same shape, float32 scales [outputs]) with w ≈ levels · scale."""
    xp = array_api_compat.array_namespace(w)
    scale, most = scales(w, bits), float(2 ** (bits - 1) - 1)
    rows = max(1, AT_ONCE // max(1, math.prod(w.shape[1:])))
    parts = []
    for start in range(0, max(w.shape[0], 1), rows):
        levels = xp.round(xp.astype(w[start : start + rows], xp.float32) / scale[start : start + rows])
        parts.append(xp.astype(xp.clip(levels, -most, most), xp.int8 if bits <= 8 else xp.int16))
    return parts[0] if len(parts) == 1 else xp.concat(parts), xp.reshape(scale, (-1,))


def scales(w: Array, bits: int) -> Array:
    """One scale per output channel, float32 [outputs, 1, ...], by the rule above; 1 for a channel of zeros.

    NumPy arrays and torch tensors get the same bits: the fraction is chosen in NumPy.
    """
    check(w, bits)
    xp = array_api_compat.array_namespace(w)
    axes = tuple(range(1, w.ndim))
    greatest = xp.maximum(xp.max(w, axis=axes, keepdims=True), -xp.min(w, axis=axes, keepdims=True))
    scale = xp.astype(greatest, xp.float32) / float(2 ** (bits - 1) - 1)
    scale = xp.where(scale > 0, scale, 1.0)
    if bits >= WHOLE_RANGE_BITS:
        return scale
    rows, whole = (_numpy(xp.reshape(xp.astype(a, xp.float32), (w.shape[0], -1))) for a in (w, scale))
    fractions = least_error(rows / whole, 2 ** (bits - 1) - 1)
    return scale * xp.reshape(xp.asarray(fractions, device=array_api_compat.device(w)), scale.shape)


def check(w: Array, bits: int) -> None:
    """Refuse what is no weight tensor and no width."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 16:
        raise FormatError(f"weight bits must be an integer from 2 to 16, not {bits!r}")
    if w.ndim < 2:
        raise InputError(f"weights need at least the dimensions [outputs, inputs], not {w.ndim}")


def _numpy(a: Array) -> np.ndarray:
    """The same values in host memory, without a gradient."""
    return np.asarray(array_api_compat.to_device(getattr(a, "detach", lambda: a)(), "cpu"))


def least_error(rows: np.ndarray, most: int) -> np.ndarray:
    """Of FRACTIONS, float32 [R], that with the least squared error of each row when rounded to multiples of it, `most` at most.

    rows: float32 [R, N], greatest magnitude `most`.
    """
    best, chosen = np.full(len(rows), np.inf), np.ones(len(rows), np.float32)
    level = np.empty_like(rows)
    for fraction in np.asarray(FRACTIONS, np.float32):
        np.divide(rows, fraction, out=level)
        np.clip(np.rint(level, out=level), -most, most, out=level)
        level *= fraction
        level -= rows
        error = np.einsum("ij,ij->i", level, level, dtype=np.float64)
        better = error < best
        best[better], chosen[better] = error[better], fraction
    return chosen
