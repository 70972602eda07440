"""Neighbouring lanes in blocks: cut, transformed, joined again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat

Array = Any


def blockwise(x: Array, axis: int, size: int | None, function: Callable[[Array, int], Array]) -> Array:
    """function(blocks, their axis of lanes) of all whole blocks of `size` lanes at once, and of the short last one; joined again.

    x [..., K, ...] with K along `axis` (>= 0); function gets [..., K // size, size, ...] and gives the same shape. None: one block.
    """
    xp = array_api_compat.array_namespace(x)
    lanes = x.shape[axis]
    if size is None or size >= lanes:
        return function(x, axis)
    whole = lanes // size * size
    out = xp.empty_like(x)
    here, rest = ((slice(None),) * axis + (part,) for part in (slice(0, whole), slice(whole, None)))
    shape = (*x.shape[:axis], whole // size, size, *x.shape[axis + 1 :])
    out[here] = xp.reshape(function(xp.reshape(x[here], shape), axis + 1), x[here].shape)
    if whole < lanes:
        out[rest] = function(x[rest], axis)
    return out
