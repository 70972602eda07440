"""Weight quantization shared by all methods: symmetric, one scale per output channel from its greatest magnitude (design, section 1.5)."""

from __future__ import annotations

from typing import Any

import array_api_compat

from overq.errors import FormatError, InputError

Array = Any


def absmax(w: Array, bits: int) -> Array:
    """Weights [outputs, inputs, ...] -> their quantized values, same shape and dtype, computed in float32."""
    xp = array_api_compat.array_namespace(w)
    scale = scales(w, bits)
    return xp.astype(xp.round(xp.astype(w, xp.float32) / scale) * scale, w.dtype)


def scales(w: Array, bits: int) -> Array:
    """One scale per output channel, float32 [outputs, 1, ...]: greatest magnitude / (2^(bits-1) - 1); 1 for a channel of zeros."""
    xp = array_api_compat.array_namespace(w)
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 16:
        raise FormatError(f"weight bits must be an integer from 2 to 16, not {bits!r}")
    if w.ndim < 2:
        raise InputError(f"weights need at least the dimensions [outputs, inputs], not {w.ndim}")
    scale = xp.max(xp.abs(xp.astype(w, xp.float32)), axis=tuple(range(1, w.ndim)), keepdims=True) / float(2 ** (bits - 1) - 1)
    return xp.where(scale > 0, scale, 1.0)
