"""The two doors between real numbers and integers (design, section 1.1): every backend takes its factors from here.

A step is one number for a tensor, an array with one number for each channel vector (or for each tile of each vector), or `Dynamic`:
a rule by which each vector gives its own. All three are the same definition, so equal steps give equal integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import array_api_compat
import numpy as np

from overq.errors import FormatError, InputError
from overq.spec import Format

Array = Any  # numpy.ndarray or torch.Tensor
TINY = float(np.finfo(np.float32).tiny)
LEAST, GREATEST = 2.0**-100, 2.0**100  # bounds of a step that a vector gives: far from where float32 ends
MEASURES = ("max", "rms")
COLUMNS = 64  # sums of squares: how many are added side by side


@dataclass(frozen=True)
class Dynamic:
    """One step for each channel vector, found in the vector: alpha · max|x| or alpha · rms(x), in float32, between 2^-100 and 2^100,
    then rounded to the nearest bfloat16 (ties to even), so that it takes 16 bits beside its vector.

    alpha    positive, calibrated
    measure  "max" or "rms"; NaN and infinities are left out of both (count as 0)
    tiles    True: each tile of `Format.lanes` lanes has its own
    """

    alpha: float
    measure: str = "max"
    tiles: bool = False

    def __post_init__(self) -> None:
        number = isinstance(self.alpha, (int, float)) and not isinstance(self.alpha, bool)
        if not (number and LEAST <= self.alpha <= GREATEST):
            raise FormatError(f"Dynamic.alpha must be a positive number, not {self.alpha!r}")
        if self.measure not in MEASURES:
            raise FormatError(f"Dynamic.measure must be one of {', '.join(MEASURES)}, not {self.measure!r}")
        if not isinstance(self.tiles, bool):
            raise FormatError(f"Dynamic.tiles must be True or False, not {self.tiles!r}")


Step: TypeAlias = "float | Array | Dynamic"


def factors(step: float, fmt: Format) -> tuple[np.float32, np.float32]:
    """(r, q): t = floor(x · r) on the way in and y = E · q on the way out, both products in float32.

    r = float32(2^(f+1) / step), q = float32(step / 2^f). A step that is not positive, or that float32 cannot hold, is refused.
    """
    step = float(step)
    if math.isfinite(step) and step > 0:
        with np.errstate(over="ignore", under="ignore"):
            r = np.float32(fmt.unit / step)
            q = np.float32(step / (1 << fmt.fraction_bits))
        if np.isfinite(r) and r > 0 and np.isfinite(q) and q >= TINY:
            return r, q
    raise InputError(f"step must be a positive number within float32's normal range, not {step!r}")


def is_one(step: Step) -> TypeGuard[float]:
    """Whether it is one number for the whole tensor."""
    return not isinstance(step, Dynamic) and getattr(step, "ndim", 0) == 0


def factors_each(step: Array, x: Array, fmt: Format, axis: int) -> tuple[Array, Array]:
    """`factors` for an array of steps: (r, q), float32 arrays of its shape.

    step  as many dimensions as x; along `axis` 1 (one number for a vector) or as many as there are tiles; else as x, or 1.
          [B, T, K], lanes last -> [B, T, 1]
    """
    xp = array_api_compat.array_namespace(x)
    step = step if array_api_compat.is_array_api_obj(step) else xp.asarray(step)
    axis %= x.ndim
    tiles = 1 if fmt.lanes is None else -(-x.shape[axis] // fmt.lanes)
    fits = step.ndim == x.ndim and all(size == 1 or size == (tiles if d == axis else x.shape[d]) for d, size in enumerate(step.shape))
    if not fits:
        wanted = tuple(1 if d == axis else size for d, size in enumerate(x.shape))
        each_tile = f", for each tile {tiles} along {axis}" if tiles > 1 else ""
        raise InputError(
            f"step of shape {tuple(step.shape)} does not fit x of shape {tuple(x.shape)} with lanes along {axis}: "
            f"one number for each vector is shape {wanted}{each_tile}"
        )
    wide = xp.astype(step, xp.float64)  # so that the quotient is rounded once, to float32, as for one number
    r, q = xp.astype(fmt.unit / wide, xp.float32), xp.astype(wide / (1 << fmt.fraction_bits), xp.float32)
    if not bool(xp.all(xp.isfinite(r) & (r > 0) & xp.isfinite(q) & (q >= TINY))):
        raise InputError("step holds a number that is not positive or not within float32's normal range")
    return r, q


def factors_on_lanes(step: Array | Dynamic, x: Array, fmt: Format, axis: int) -> tuple[Array, Array]:
    """(r, q), float32 arrays that broadcast against x."""
    xp = array_api_compat.array_namespace(x)
    r, q = factors_each(steps(x, step, fmt, axis) if isinstance(step, Dynamic) else step, x, fmt, axis)
    if r.shape[axis] > 1:
        lane = xp.arange(x.shape[axis], device=array_api_compat.device(x)) // fmt.lanes
        r, q = xp.take(r, lane, axis=axis), xp.take(q, lane, axis=axis)
    return r, q


def steps(x: Array, rule: Dynamic, fmt: Format, axis: int = -1) -> Array:
    """The step that each vector of x gives: float32 of 8 significant bits, of x's shape but 1, or the number of tiles, along `axis`.

    rms: squares in float64; lane k of a group is added to column k % 64, in the order of k, then columns 32 … 63 to columns
    0 … 31, 16 … 31 to 0 … 15, and so on: one order, so that every backend gives the same float32.
    """
    xp = array_api_compat.array_namespace(x)
    x = xp.moveaxis(xp.astype(x, xp.float32), axis, -1)
    lanes = x.shape[-1]
    size = min(fmt.lanes, lanes) if rule.tiles and fmt.lanes else lanes
    groups = -(-lanes // size) if size else 1
    magnitude = _padded(xp, xp.where(xp.isfinite(x), xp.abs(x), 0.0), groups * size)
    magnitude = xp.reshape(magnitude, (*x.shape[:-1], groups, size))
    if rule.measure == "max":
        found = xp.max(magnitude, axis=-1) if size else xp.zeros(magnitude.shape[:-1], dtype=xp.float32)
    else:
        last = lanes - (groups - 1) * size
        count = xp.asarray([size] * (groups - 1) + [max(last, 1)], dtype=xp.float64, device=array_api_compat.device(x))
        found = xp.astype(xp.sqrt(_sum_of_squares(xp, magnitude) / count), xp.float32)
    step = xp.clip(found * float(np.float32(rule.alpha)), LEAST, GREATEST)
    return xp.moveaxis(bfloat(step), -1, axis)


def bfloat(x: Array) -> Array:
    """Nearest bfloat16, ties to even, of positive float32; as float32."""
    xp = array_api_compat.array_namespace(x)
    pattern = x.view(xp.int32)
    return ((pattern + 0x7FFF + ((pattern >> 16) & 1)) & -0x10000).view(xp.float32)


def _sum_of_squares(xp: Any, magnitude: Array) -> Array:
    """Float64, over the last axis, in the order that `steps` says."""
    wide = xp.astype(_padded(xp, magnitude, -(-magnitude.shape[-1] // COLUMNS) * COLUMNS), xp.float64)
    total = xp.zeros((*wide.shape[:-1], COLUMNS), dtype=xp.float64, device=array_api_compat.device(wide))
    for start in range(0, wide.shape[-1], COLUMNS):
        part = wide[..., start : start + COLUMNS]
        total = total + part * part
    half = COLUMNS // 2
    while half:
        total, half = total[..., :half] + total[..., half : 2 * half], half // 2
    return total[..., 0]


def _padded(xp: Any, a: Array, size: int) -> Array:
    """With zeros behind, along the last axis."""
    missing = size - a.shape[-1]
    if not missing:
        return a
    return xp.concat([a, xp.zeros((*a.shape[:-1], missing), dtype=a.dtype, device=array_api_compat.device(a))], axis=-1)


def scaled(x: Array, step: Array | Dynamic, fmt: Format, axis: int) -> tuple[Array, Array]:
    """(x · r in float32, q) for a step that is not one number: what is left is a tensor with the factors 1 and 1."""
    xp = array_api_compat.array_namespace(x)
    r, q = factors_on_lanes(step, x, fmt, axis)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite and saturates
        return xp.astype(x, xp.float32) * r, q
