"""Rounding to number grids on whole arrays; float32 in, float32 out, the same bits from NumPy and torch."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

Array = Any


def device_of(x: Array) -> str:
    """Where its values are: a torch device type; "cpu" for NumPy."""
    return x.device.type if array_api_compat.is_torch_array(x) else "cpu"


def scaled(x: Array, step: Any) -> Array:
    """x in units of the step; a number, or float32 that broadcasts against x."""
    return x * (float(np.float32(1 / step)) if not getattr(step, "ndim", 0) else 1 / step)


def nearest(v: Array) -> Array:
    """Nearest integer, ties up, as the OverQ format rounds."""
    xp = array_api_compat.array_namespace(v)
    return xp.floor(v + 0.5)


def digit_range(bits: int, signed: bool) -> tuple[float, float]:
    """Least and greatest integer of `bits` bits."""
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)


def magnitude(x: Array, signed: bool) -> Array:
    """|x|; in an unsigned tensor negative values count as 0."""
    xp = array_api_compat.array_namespace(x)
    return xp.abs(x) if signed else xp.clip(x, 0.0, None)


def with_sign(y: Array, x: Array) -> Array:
    """y >= 0 with the sign of x."""
    xp = array_api_compat.array_namespace(x)
    return xp.where(x < 0, -y, y)


def exponent(x: Array) -> Array:
    """floor(log2 |x|) as int32, from the bits; -127 for 0 and subnormal numbers."""
    xp = array_api_compat.array_namespace(x)
    return ((x.view(xp.int32) >> 23) & 255) - 127


def power_of_two(e: Array) -> Array:
    """2^e as float32, exactly, for int32 e from -127 (subnormal) to 127."""
    xp = array_api_compat.array_namespace(e)
    return xp.where(e == -127, 1 << 22, (e + 127) << 23).view(xp.float32)


def minifloat(x: Array, mantissa: int, least: int) -> Array:
    """Nearest number with `mantissa` fraction bits in its significand, ties to even; below 2^least the spacing stays (subnormals)."""
    xp = array_api_compat.array_namespace(x)
    spacing = xp.clip(exponent(x), least, None) - mantissa
    return xp.round(x * power_of_two(-spacing)) * power_of_two(spacing)


def lanes_of(axis: int, start: int | None = None, stop: int | None = None, stride: int | None = None) -> tuple[slice, ...]:
    """Index of some lanes along `axis` (>= 0)."""
    return (slice(None),) * axis + (slice(start, stop, stride),)
