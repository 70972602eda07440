"""OverQ on whole arrays, for any array library (NumPy, torch): the readable vector form.

Lanes lie along `axis`. Instead of walking a row, look from every zero lane at the lane d before it, for d = 1 … c.
Everything after `fixed` is integer arithmetic and equals `overq.spec` bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import array_api_compat

from overq.errors import NonFiniteError
from overq.kernels.scale import Step, factors, is_one, scaled
from overq.spec import Counts, Format, State, seen, shift

Array = Any  # numpy.ndarray, torch.Tensor, …
MODES = ("range", "precision")


def available() -> str | None:
    """Always: it needs nothing but the array library of its argument."""
    return None


# In and out ------------------------------------------------------------------------------------------


def fixed(x: Array, step: Step, fmt: Format, axis: int = -1) -> Array:
    """t = floor(x · r), saturated: int32, f+1 fraction bits. NaN becomes 0 (`overwrite` puts it back); infinity saturates.

    axis: where the lanes lie, asked only where step is not one number.
    """
    return _floor(_scaled(x, step, fmt, axis)[0], fmt.t_min, fmt.t_max)


def _scaled(x: Array, step: Step, fmt: Format, axis: int) -> tuple[Array, Array]:
    """(x · r in float32, q)"""
    if not is_one(step):
        return scaled(x, step, fmt, axis)
    xp = array_api_compat.array_namespace(x)
    r, q = factors(step, fmt)
    return xp.astype(x, xp.float32) * float(r), float(q)


def _floor(product: Array, low: int, high: int) -> Array:
    xp = array_api_compat.array_namespace(product)
    t = xp.floor(product)
    t = xp.clip(xp.where(xp.isnan(t), 0.0, t), float(low), float(high))
    return xp.astype(t, xp.int32)


def to_fixed(x: Array, step: Step, fmt: Format, axis: int = -1) -> Array:
    """The encoder's integers t (int32) of real x; NaN is refused with NonFiniteError, infinity saturates."""
    xp = array_api_compat.array_namespace(x)
    if bool(xp.any(xp.isnan(x))):
        raise NonFiniteError(f"x holds NaN, which no digit can spell ({int(xp.sum(xp.isnan(x)))} of {array_api_compat.size(x)} values)")
    return fixed(x, step, fmt, axis)


def overwrite(x: Array, step: Step, fmt: Format, axis: int = -1) -> Array:
    """What the hardware would compute with: E · step / 2^f, in x's shape and dtype.

    x: real array, lanes along `axis`. A NaN stays NaN and is a free lane to its neighbours; ±inf saturates.
    step: one number; an array with one for each vector or tile (`scale.factors_each`); or how each vector gives it (`scale.Dynamic`).
    """
    product, q = _scaled(x, step, fmt, axis)
    return _values(x, _floor(product, fmt.t_min, fmt.t_max), q, fmt, axis)


def _values(x: Array, t: Array, q: Array, fmt: Format, axis: int) -> Array:
    xp = array_api_compat.array_namespace(x)
    y = xp.astype(values(t, fmt, axis), xp.float32) * q
    return xp.where(xp.isnan(x), x, xp.astype(y, x.dtype))


def overwrite_counted(x: Array, step: Step, fmt: Format, axis: int = -1) -> tuple[Array, Counts]:
    """`overwrite`, and the counts of what it did; a NaN counts as a zero."""
    product, q = _scaled(x, step, fmt, axis)
    y = _values(x, _floor(product, fmt.t_min, fmt.t_max), q, fmt, axis)
    return y, counts(_floor(product, *seen(fmt)), fmt, axis)


# Who gives way ---------------------------------------------------------------------------------------


def _give_way(t: Array, fmt: Format, axis: int) -> tuple[Array, Array | None]:
    """(t with 0 where a value gives way to an outlier, where that is); t is saturated. (t, None) where nothing can."""
    if not fmt.evict or t.shape[axis] < 2:
        return t, None
    xp = array_api_compat.array_namespace(t)
    level = _level(t, fmt)
    clipped = xp.abs(level - xp.clip(level, fmt.digit_min, fmt.digit_max))
    most, magnitude, zero = xp.clip(clipped, 0, fmt.evict), xp.abs(level), level == 0
    waiting, normal = clipped > 0, ~zero & (clipped == 0)
    far = min(fmt.cascade, t.shape[axis] - 1)
    between, joined = [], xp.ones_like(normal)  # for each d, whether lanes s+1 … s+d-1 are normal, of the tile of s + d
    for d in range(1, far + 1):
        here, there = _until(d, axis, t.ndim), _from(d, axis, t.ndim)
        joined = joined[_until(1, axis, t.ndim)] if d > 1 else joined[here]
        if fmt.lanes is not None:
            joined = joined & _same_tile(t, d, fmt.lanes, axis)
        waiting[here] = waiting[here] & ~(joined & zero[there])
        between.append(joined)
        joined = joined & normal[there]
    gone = xp.zeros_like(normal)
    for d, joined in enumerate(between, 1):
        here, there = _until(d, axis, t.ndim), _from(d, axis, t.ndim)
        hit = waiting[here] & joined & normal[there] & (magnitude[there] <= most[here])
        gone[there] = gone[there] | hit
        waiting[here] = waiting[here] & ~hit
    return xp.where(gone, 0, t), gone


# Who serves whom -------------------------------------------------------------------------------------


class _Assignment(NamedTuple):
    """What every lane becomes.

    level   n(t)
    digit   clip(n)
    hops    how many lanes after a served one this lane lies: 0 own, 1 its second digit, more: a value moved up
    ranged  where hops > 0: by range overwrite, else by precision
    """

    level: Array
    digit: Array
    hops: Array
    ranged: Array


def _assign(t: Array, fmt: Format, axis: int) -> _Assignment:
    xp = array_api_compat.array_namespace(t)
    level = _level(t, fmt)
    digit = xp.clip(level, fmt.digit_min, fmt.digit_max)
    outlier, nonzero = level != digit, level != 0
    distance, ranged = xp.zeros_like(t, dtype=xp.int8), xp.zeros_like(outlier)
    error = xp.abs(t - digit * fmt.unit) if fmt.policy == "largest" else None
    if fmt.range_on:
        distance = _farthest(nonzero, outlier, error, fmt, axis, fmt.cascade)
        ranged = distance > 0
    if fmt.precision_on:
        far = fmt.cascade if fmt.policy == "largest" else 1
        distance = xp.where(ranged, distance, _farthest(nonzero, nonzero & ~outlier, error, fmt, axis, far))
    hops, by_range = xp.asarray(distance, copy=True), xp.asarray(ranged, copy=True)
    for k in range(1, min(fmt.cascade, t.shape[axis])):  # spread each zero's choice over the lanes it fills
        here, zero = _until(k, axis, t.ndim), _from(k, axis, t.ndim)
        filled = distance[zero] > k
        hops[here] = xp.where(filled, distance[zero] - k, hops[here])
        by_range[here] = by_range[here] | (filled & ranged[zero])
    return _Assignment(level, digit, hops, by_range)


def _farthest(nonzero: Array, wanted: Array, error: Array | None, fmt: Format, axis: int, far: int) -> Array:
    """int8: for each zero lane, how far before it lies the lane it serves, 0 for none.

    Of the wanted lanes in reach, the farthest; where `error` is given, the one with the greatest error.
    """
    xp = array_api_compat.array_namespace(nonzero)
    distance = xp.zeros_like(nonzero, dtype=xp.int8)
    worst = None if error is None else xp.zeros_like(error)
    reach = ~nonzero
    for d in range(1, min(far, nonzero.shape[axis] - 1) + 1):
        here, there = _from(d, axis, nonzero.ndim), _until(d, axis, nonzero.ndim)
        reach = reach[_from(1, axis, nonzero.ndim)] & nonzero[there]  # lanes d …: all of the d lanes before are nonzero
        if fmt.lanes is not None:
            reach = reach & _same_tile(nonzero, d, fmt.lanes, axis)
        hit = reach & wanted[there]
        if error is not None and worst is not None:
            hit = hit & (error[there] >= worst[here])  # nearest comes first, so >= leaves a tie to the lower lane
            worst[here] = xp.where(hit, error[there], worst[here])
        distance[here] = xp.where(hit, xp.full_like(distance[here], d), distance[here])
    return distance


def _same_tile(like: Array, d: int, lanes: int, axis: int) -> Array:
    """For lanes d …, whether the lane d before is in the same tile; broadcasts along `axis`."""
    xp = array_api_compat.array_namespace(like)
    inside = xp.arange(d, like.shape[axis], device=array_api_compat.device(like)) % lanes >= d
    shape = [1] * like.ndim
    shape[axis] = -1
    return xp.reshape(inside, tuple(shape))


def _from(d: int, axis: int, ndim: int) -> tuple[slice, ...]:
    return (slice(None),) * (axis % ndim) + (slice(d, None),)


def _until(d: int, axis: int, ndim: int) -> tuple[slice, ...]:
    return (slice(None),) * (axis % ndim) + (slice(None, -d),)


def _before(a: Array, axis: int) -> Array:
    """Each lane sees the value of the lane before it; lane 0 sees 0."""
    xp = array_api_compat.array_namespace(a)
    out = xp.zeros_like(a)
    out[_from(1, axis, a.ndim)] = a[_until(1, axis, a.ndim)]
    return out


def _served(a: _Assignment, axis: int) -> tuple[Array, Array]:
    """(by range, by precision): the lanes whose second digit stands on the lane after them."""
    xp = array_api_compat.array_namespace(a.hops)
    by_range, by_precision = xp.zeros_like(a.ranged), xp.zeros_like(a.ranged)
    here, after = _until(1, axis, a.hops.ndim), _from(1, axis, a.hops.ndim)
    by_range[here] = (a.hops[after] == 1) & a.ranged[after]
    by_precision[here] = (a.hops[after] == 1) & ~a.ranged[after]
    return by_range, by_precision


# The functions of a backend --------------------------------------------------------------------------


def encode(t: Array, fmt: Format, axis: int = -1) -> tuple[Array, Array]:
    """(digits int16, states uint8) of integers t with f+1 fraction bits; beyond what two digits spell, t saturates."""
    xp = array_api_compat.array_namespace(t)
    t, _ = _give_way(_saturate(t, fmt), fmt, axis)
    a = _assign(t, fmt, axis)
    by_range, by_precision = _served(a, axis)
    low, high = _split(a.level, fmt.bits, fmt.signed)
    fraction, whole = _split(_fine(t, fmt), fmt.fraction_bits, fmt.signed)
    first = xp.where(by_range, low, xp.where(by_precision, whole, a.digit))
    second = xp.where(by_precision, fraction, high)
    digits = xp.where(a.hops == 1, _before(second, axis), xp.where(a.hops > 1, _before(a.digit, axis), first))
    states = xp.where(a.hops == 1, xp.where(a.ranged, int(State.RANGE), int(State.PRECISION)), 0)
    states = xp.where(a.hops > 1, int(State.MOVED), states)
    return xp.astype(digits, xp.int16), xp.astype(states, xp.uint8)


def effective(digits: Array, states: Array, fmt: Format) -> Array:
    """E (int32, f fraction bits): what each channel's one or two digits spell; lanes last."""
    xp = array_api_compat.array_namespace(digits)
    digits = xp.astype(digits, xp.int32)
    total = xp.zeros_like(digits)
    for state in State:
        part = xp.where(states == int(state), digits << shift(state, fmt), 0)
        if state is State.OWN:
            total = total + part
        else:
            total[..., :-1] = total[..., :-1] + part[..., 1:]
    return total


def values(t: Array, fmt: Format, axis: int = -1) -> Array:
    """effective(*encode(t)) in one step: E (int32) along any axis."""
    xp = array_api_compat.array_namespace(t)
    t, _ = _give_way(_saturate(t, fmt), fmt, axis)
    a = _assign(t, fmt, axis)
    by_range, by_precision = _served(a, axis)
    E = xp.where(by_range, a.level, a.digit) << fmt.fraction_bits
    return xp.where(by_precision, _fine(t, fmt), E)


def counts(t: Array, fmt: Format, axis: int = -1) -> Counts:
    """Zeros, outliers, served and evicted values of the whole array; outliers before t saturates."""
    xp = array_api_compat.array_namespace(t)
    left, gone = _give_way(_saturate(t, fmt), fmt, axis)
    a = _assign(left, fmt, axis)
    second, level = a.hops == 1, _level(xp.clip(t, *seen(fmt)), fmt)
    outlier, zero = level != xp.clip(level, fmt.digit_min, fmt.digit_max), a.level == 0 if gone is None else (a.level == 0) & ~gone
    masks = (zero, outlier, second & a.ranged, second & ~a.ranged, *([] if gone is None else [gone]))
    return Counts(array_api_compat.size(t), *(int(xp.sum(xp.astype(mask, xp.int64))) for mask in masks))


def _level(t: Array, fmt: Format) -> Array:
    return (t + fmt.unit // 2) >> (fmt.fraction_bits + 1)


def _fine(t: Array, fmt: Format) -> Array:
    xp = array_api_compat.array_namespace(t)
    return xp.clip((t + 1) >> 1, fmt.fine_min, fmt.fine_max)


def _split(value: Array, bits: int, signed: bool) -> tuple[Array, Array]:
    """(low, high) with low + high · 2^bits = value; low is balanced where signed."""
    least = -(1 << bits >> 1) if signed else 0
    low = ((value - least) & ((1 << bits) - 1)) + least
    return low, (value - low) >> bits


def _saturate(t: Array, fmt: Format) -> Array:
    xp = array_api_compat.array_namespace(t)
    return xp.astype(xp.clip(t, fmt.t_min, fmt.t_max), xp.int32)
