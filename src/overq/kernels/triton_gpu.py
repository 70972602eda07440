"""OverQ on the GPU, in Triton. Runs in Triton's interpreter where there is no GPU (TRITON_INTERPRET=1, slow, for tests).

A tensor whose memory is dense is seen as [O, K, I] as in `numba_cpu`: K lanes, O positions outside them in memory, I inside. One
program takes a patch of lanes × positions. Every lane s asks for itself "am I served?", so programs need not talk: s is served
by the first zero behind it, d <= c lanes on, if none of the lanes that this zero could serve instead wins. For that it looks at
the lanes up to c before and up to c behind itself; all but the first look come from the GPU's caches. `overwrite` reads and
writes memory once; `encode` and `counts` first store who is served, one byte a lane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from overq.errors import InputError
from overq.kernels.array import effective
from overq.kernels.scale import Dynamic, Step, factors, is_one, scaled
from overq.spec import Counts, Format, State, seen

__all__ = ["MODES", "available", "counts", "effective", "encode", "overwrite", "overwrite_counted"]

Array = Any  # torch.Tensor or numpy.ndarray
MODES = ("range", "precision")
PATCH = 1024  # values of one program; far more in the interpreter, which pays per program
OWN, RANGE, MOVED, PRECISION = (tl.constexpr(int(state)) for state in State)


def available() -> str | None:
    """Where torch sees a GPU, or in the interpreter."""
    if triton.knobs.runtime.interpret or torch.cuda.is_available():
        return None
    return "no GPU that torch can use here; TRITON_INTERPRET=1 runs it in Triton's interpreter, slowly"


# ruff: noqa: SIM108 - Triton compiles `if` on constants away, `a if b else c` not always

# Device code; F is the tuple of the format's numbers, all known when the kernel is compiled -----------


@triton.jit
def _look(x, offset, inside, r, F: tl.constexpr):
    """(t int32 saturated, where x is NaN) at `offset`; t is 0 for NaN and where not inside. Integers are t already."""
    value = tl.load(x + offset, mask=inside, other=0)
    if value.dtype.is_floating():
        v = value.to(tl.float32) * r
        nan = v != v
        v = tl.where(nan, 0.0, tl.floor(v))
        return tl.minimum(tl.maximum(v, F[4] * 1.0), F[5] * 1.0).to(tl.int32), nan
    return tl.minimum(tl.maximum(value, F[4]), F[5]).to(tl.int32), value != value


@triton.jit
def _level(t, F: tl.constexpr):
    """(n, clip(n))"""
    n = (t + (1 << F[6])) >> (F[6] + 1)
    return n, tl.minimum(tl.maximum(n, F[2]), F[3])


@triton.jit
def _fine(t, F: tl.constexpr):
    """p(t), saturated to what a whole and a fraction digit spell."""
    return tl.minimum(tl.maximum((t + 1) >> 1, F[10]), F[11])


@triton.jit
def _key(t, F: tl.constexpr):
    """(nonzero, how much the lane wants a second digit, -1 for not at all): by policy, the greatest key wins or any outlier farther off."""
    n, digit = _level(t, F)
    if F[9]:
        key = tl.abs(t - (digit << (F[6] + 1))) + tl.where(n != digit, 2 << F[6], 0)
    else:
        key = tl.where(n != digit, 1, 0)
    wanted = tl.where(n != digit, F[7], F[8])
    return n != 0, tl.where((n != 0) & (wanted != 0), key, -1)


@triton.jit
def _served(x, t, offset, lane, stride, lanes, tile, valid, r, F: tl.constexpr):
    """Which of the lanes get a second digit."""
    nonzero, key = _key(t, F)
    room_before, room_behind = lane % tile, tl.minimum(tile - 1 - lane % tile, lanes - 1 - lane)
    waiting = nonzero & (key >= 0)
    distance = tl.zeros_like(t)  # of the zero behind
    for d in tl.static_range(1, F[1] + 1):
        there = valid & (d <= room_behind)
        other, _ = _look(x, offset + d * stride, there, r, F)
        other_nonzero, other_key = _key(other, F)
        distance = tl.where(waiting & there & ~other_nonzero, d, distance)
        waiting = waiting & there & other_nonzero
        if F[9]:
            waiting = waiting & (other_key <= key)  # a lane nearer to the zero wins only with a greater key
    served = distance > 0
    if F[9] == 0:
        served = served & ((key == 1) | (distance == 1))  # a normal value is served from next door only
    joined = served
    for d in tl.static_range(1, F[1]):
        there = valid & (d <= room_before) & (d + distance <= F[1])
        other, _ = _look(x, offset - d * stride, there, r, F)
        other_nonzero, other_key = _key(other, F)
        joined = joined & there & other_nonzero
        if F[9]:
            served = served & ~(joined & (other_key >= key))  # on a tie the lower lane wins
        else:
            served = served & ~(joined & (other_key == 1))
    return served


@triton.jit
def _patch(outer, lanes, inner, LANES: tl.constexpr, POSITIONS: tl.constexpr):
    """(lane, offset, valid) of this program's patch [LANES, POSITIONS]."""
    lane = tl.program_id(1) * LANES + tl.arange(0, LANES)[:, None]
    position = tl.program_id(0).to(tl.int64) * POSITIONS + tl.arange(0, POSITIONS)[None, :]
    offset = (position // inner * lanes + lane) * inner + position % inner
    return lane + tl.zeros_like(position).to(tl.int32), offset, (lane < lanes) & (position < outer * inner)


@triton.jit
def _seen(x, offset, there, r, F: tl.constexpr):
    """(|n|, by how much one digit clips n) of what is there; a zero where nothing is."""
    t, _ = _look(x, offset, there, r, F)
    n, digit = _level(t, F)
    return tl.abs(n), tl.abs(n - digit)


@triton.jit
def _give_way_kernel(x, y, outer, lanes, inner, tile, r, F: tl.constexpr, LANES: tl.constexpr, POSITIONS: tl.constexpr):
    """x with 0 where a value gives way to an outlier. The lane looks back for the outlier, then on for what stops the outlier's look."""
    lane, offset, valid = _patch(outer, lanes, inner, LANES, POSITIONS)
    room_before, room_behind = lane % tile, tl.minimum(tile - 1 - lane % tile, lanes - 1 - lane)
    own, clipped = _seen(x, offset, valid, r, F)
    looking = valid & (own > 0) & (clipped == 0)
    distance, most, least = tl.zeros_like(own), tl.zeros_like(own), own * 0 + F[13] + 1
    for d in tl.static_range(1, F[1] + 1):
        there = valid & (d <= room_before)
        before, off = _seen(x, offset - d * inner, there, r, F)
        found = looking & there & (off > 0)
        distance, most = tl.where(found, d, distance), tl.where(found, tl.minimum(off, F[13]), most)
        looking = looking & there & (off == 0) & (before > 0)
        least = tl.where(looking, tl.minimum(least, before), least)  # of the lanes between, which would go first
    gone = (distance > 0) & (own <= most) & (least > most)
    looking = gone
    for d in tl.static_range(1, F[1]):
        there = valid & (d <= room_behind) & (distance + d <= F[1])
        behind, off = _seen(x, offset + d * inner, there, r, F)
        gone = gone & ~(looking & there & (behind == 0))
        looking = looking & there & (behind > 0) & (off == 0)
    value = tl.load(x + offset, mask=valid, other=0)
    tl.store(y + offset, tl.where(gone, 0, value).to(y.dtype.element_ty), mask=valid)


@triton.jit
def _overwrite_kernel(x, y, outer, lanes, inner, tile, r, q, F: tl.constexpr, LANES: tl.constexpr, POSITIONS: tl.constexpr):
    lane, offset, valid = _patch(outer, lanes, inner, LANES, POSITIONS)
    t, nan = _look(x, offset, valid, r, F)
    two = _served(x, t, offset, lane, inner, lanes, tile, valid, r, F)
    n, digit = _level(t, F)
    E = tl.where(two & (n == digit), _fine(t, F), tl.where(two, n, digit) << F[6])
    value = tl.where(nan, float("nan"), E.to(tl.float32) * q)
    if y.dtype.element_ty == tl.bfloat16:  # round to nearest even ourselves: Triton's interpreter cuts the low bits off
        pattern = value.to(tl.int32, bitcast=True)
        value = ((pattern + 0x7FFF + ((pattern >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)
    tl.store(y + offset, value.to(y.dtype.element_ty), mask=valid)


@triton.jit
def _served_kernel(x, out, outer, lanes, inner, tile, r, F: tl.constexpr, LANES: tl.constexpr, POSITIONS: tl.constexpr):
    lane, offset, valid = _patch(outer, lanes, inner, LANES, POSITIONS)
    t, _ = _look(x, offset, valid, r, F)
    tl.store(out + offset, _served(x, t, offset, lane, inner, lanes, tile, valid, r, F).to(tl.uint8), mask=valid)


@triton.jit
def _digits_kernel(t, served, digits, states, outer, lanes, inner, tile, F: tl.constexpr, LANES: tl.constexpr, POSITIONS: tl.constexpr):
    lane, offset, valid = _patch(outer, lanes, inner, LANES, POSITIONS)
    own, _ = _look(t, offset, valid, 1.0, F)
    before, _ = _look(t, offset - inner, valid & (lane > 0), 1.0, F)
    first = tl.load(served + offset, mask=valid, other=0) != 0
    second = tl.load(served + offset - inner, mask=valid & (lane > 0), other=0) != 0
    moved = first & ~first
    joined = valid
    for d in tl.static_range(1, F[1]):  # a served lane d + 1 before, and only nonzero lanes since
        there = valid & (d < lane % tile)
        between, _ = _look(t, offset - d * inner, there, 1.0, F)
        joined = joined & there & (_level(between, F)[0] != 0)
        moved = moved | (joined & (tl.load(served + offset - (d + 1) * inner, mask=there, other=0) != 0))
    held = tl.where(second | moved, before, own)
    n, digit = _level(held, F)
    ranged = n != digit
    fine = _fine(held, F)
    low = ((n - F[2]) & ((1 << F[0]) - 1)) + F[2]
    fraction = ((fine - F[12]) & ((1 << F[6]) - 1)) + F[12]
    high, whole = (n - low) >> F[0], (fine - fraction) >> F[6]
    pair = tl.where(second, tl.where(ranged, high, fraction), tl.where(ranged, low, whole))
    state = tl.where(second, tl.where(ranged, RANGE, PRECISION), tl.where(moved, MOVED, OWN))
    tl.store(digits + offset, tl.where(second | (first & ~moved), pair, digit).to(tl.int16), mask=valid)
    tl.store(states + offset, state.to(tl.uint8), mask=valid)


# The functions of a backend --------------------------------------------------------------------------


def overwrite(x: Array, step: Step, fmt: Format, axis: int = -1) -> Array:
    """E · step / 2^f, in x's shape, dtype and memory layout. A NaN stays NaN and is a free lane to its neighbours; ±inf saturates.

    step: one number; an array with one for each vector or tile (`scale.factors_each`); or how each vector gives it (`scale.Dynamic`).
    """
    x = _tensor(given := x)
    if is_one(step):
        out, (r, q) = torch.empty_like(x), map(float, factors(step, fmt))
        _launch(_overwrite_kernel, axis, fmt, (_given_way(x, fmt, axis, r), out), r, q)
        return _like(given, out)
    product, q = scaled(x, step if isinstance(step, Dynamic) else _tensor(step), fmt, axis)
    E = torch.empty_like(product)
    _launch(_overwrite_kernel, axis, fmt, (_given_way(product, fmt, axis, 1.0), E), 1.0, 1.0)
    return _like(given, (E * q).to(x.dtype))


def overwrite_counted(x: Array, step: Step, fmt: Format, axis: int = -1) -> tuple[Array, Counts]:
    """`overwrite`, and the counts of what it did; a NaN counts as a zero."""
    if is_one(step):
        product = _tensor(x).float() * float(factors(step, fmt)[0])
    else:
        product, _ = scaled(_tensor(x), step if isinstance(step, Dynamic) else _tensor(step), fmt, axis)
    t = product.floor().nan_to_num(nan=0.0).clamp(*seen(fmt)).to(torch.int32)
    return overwrite(x, step, fmt, axis), counts(t, fmt, axis)


def encode(t: Array, fmt: Format, axis: int = -1) -> tuple[Array, Array]:
    """(digits int16, states uint8) of integers t with f+1 fraction bits; beyond what two digits spell, t saturates."""
    t = _given_way(_integers(given := t, fmt), fmt, axis, 1.0)
    digits, states = torch.empty_like(t, dtype=torch.int16), torch.empty_like(t, dtype=torch.uint8)
    _launch(_digits_kernel, axis, fmt, (t, _who_is_served(t, fmt, axis), digits, states))
    return _like(given, digits), _like(given, states)


def counts(t: Array, fmt: Format, axis: int = -1) -> Counts:
    """Zeros, outliers, served and evicted values of integers t."""
    t = _integers(t, fmt)
    left = _given_way(t, fmt, axis, 1.0)
    served, gone = _who_is_served(left, fmt, axis) != 0, left != t
    n = (t.clamp(*seen(fmt)) + fmt.unit // 2) >> (fmt.fraction_bits + 1)
    outlier = (n < fmt.digit_min) | (n > fmt.digit_max)
    ranged = outlier & fmt.range_on  # else t saturates to a digit
    return Counts(t.numel(), *(int(m.sum()) for m in (n == 0, outlier, served & ranged, served & ~ranged, gone)))


def _given_way(x: torch.Tensor, fmt: Format, axis: int, r: float) -> torch.Tensor:
    """x with 0 where a value gives way to an outlier, in a pass of its own; x itself where none does."""
    if not fmt.evict:
        return x
    out = torch.empty_like(x)
    _launch(_give_way_kernel, axis, fmt, (x, out), r)
    return out


def _who_is_served(t: torch.Tensor, fmt: Format, axis: int) -> torch.Tensor:
    out = torch.empty_like(t, dtype=torch.uint8)
    _launch(_served_kernel, axis, fmt, (t, out), 1.0)
    return out


def _launch(kernel: Any, axis: int, fmt: Format, tensors: tuple[torch.Tensor, ...], *numbers: float) -> None:
    """Run `kernel` on tensors of one memory layout (the last one's): the others are copied if they lie differently."""
    layout = tensors[-1]
    if layout.numel() == 0:
        return
    order = sorted(range(layout.ndim), key=lambda d: -layout.stride()[d] if layout.shape[d] > 1 else 0)
    flat = [tensor.permute(order).contiguous() for tensor in tensors]
    place, shape = order.index(axis % layout.ndim), [layout.shape[d] for d in order]
    outer, lanes, inner = int(np.prod(shape[:place])), shape[place], int(np.prod(shape[place + 1 :]))
    size = (fmt.bits, fmt.cascade, fmt.digit_min, fmt.digit_max, fmt.t_min, fmt.t_max)
    modes = (int(fmt.range_on), int(fmt.precision_on), int(fmt.policy == "largest"))
    F = (*size, fmt.fraction_bits, *modes, fmt.fine_min, fmt.fine_max, -(1 << fmt.fraction_bits >> 1) if fmt.signed else 0, fmt.evict)
    patch = PATCH * 256 if triton.knobs.runtime.interpret else PATCH
    wide, narrow = triton.next_power_of_2(min(patch // 8, lanes if inner == 1 else outer * inner)), 8
    narrow = max(1, min(patch // wide, triton.next_power_of_2(outer if inner == 1 else lanes)))
    LANES, POSITIONS = (wide, narrow) if inner == 1 else (narrow, wide)
    grid = (triton.cdiv(outer * inner, POSITIONS), triton.cdiv(lanes, LANES))
    kernel[grid](*flat, outer, lanes, inner, fmt.lanes or lanes, *numbers, F=F, LANES=LANES, POSITIONS=POSITIONS)


def _tensor(x: Array) -> torch.Tensor:
    """As a torch tensor where the kernel can reach it: NumPy's arrays, which tests and the fuzz command pass, travel to a GPU and back."""
    home = "cpu" if triton.knobs.runtime.interpret else "cuda"
    x = x.detach() if isinstance(x, torch.Tensor) else torch.from_numpy(np.asarray(x)).to(home)
    if x.device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise InputError(f"the triton backend works on a GPU, not on a tensor on {x.device}")
    return x


def _like(given: Array, tensor: torch.Tensor) -> Array:
    return tensor if isinstance(given, torch.Tensor) else tensor.cpu().numpy()


def _integers(t: Array, fmt: Format) -> torch.Tensor:
    t = _tensor(t)
    return t if t.dtype == torch.int32 else t.clamp(*seen(fmt)).to(torch.int32)
