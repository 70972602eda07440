"""OverQ on the CPU at memory speed, compiled by Numba: one pass, several threads, NumPy arrays or torch tensors.

A tensor whose memory is dense is used as it lies, seen as [O, K, I]: K lanes, O positions outside them in memory and I inside
(contiguous NCHW: I = H·W; channels-last and [..., K]: I = 1). Any other strides are copied once. `compiled.py` does the work.

Threads: as many as torch.get_num_threads() says for a torch tensor, else one per CPU of this process; `threads=` overrides.
The compiled code is cached on disk beside the package, or where NUMBA_CACHE_DIR says.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from overq.errors import InputError
from overq.kernels import compiled, vectors
from overq.kernels.array import effective
from overq.kernels.scale import Dynamic, Step, factors, factors_each, is_one, scaled
from overq.spec import Counts, Format, seen

__all__ = ["MODES", "available", "counts", "effective", "encode", "overwrite", "overwrite_counted"]

Array = Any  # numpy.ndarray, or torch.Tensor on the CPU
MODES = ("range", "precision")
BLOCK = 65536  # values in flight per thread: t, flags and bits together take about 6 bytes each and should fit the L2 cache
RUN = 4096  # most positions that are contiguous in memory and go together
SMALL = 131072  # values that are not worth waking a second thread


def available() -> str | None:
    """Wherever Numba is installed."""
    return None


def overwrite(x: Array, step: Step, fmt: Format, axis: int = -1, threads: int | None = None) -> Array:
    """E · step / 2^f, in x's shape, dtype and memory layout. A NaN stays NaN and is a free lane to its neighbours; ±inf saturates.

    x: float16, float32, float64 or (torch) bfloat16, lanes along `axis`.
    step: one number; an array with one for each vector or tile (`scale.factors_each`); or how each vector gives it (`scale.Dynamic`).
    """
    return overwrite_counted(x, step, fmt, axis, threads)[0]


def overwrite_counted(x: Array, step: Step, fmt: Format, axis: int = -1, threads: int | None = None) -> tuple[Array, Counts]:
    """`overwrite` and the counts of what it did, in the same pass. A NaN counts as a zero."""
    xp = array_api_compat.array_namespace(x)
    if is_one(step):
        out = xp.empty_like(x)
        return out, _run(x, (out,), axis, rule_of(fmt, float(step), _is_bfloat(x)), threads)
    if _order(out := xp.empty_like(x), axis).inner == 1:
        return out, _run(x, (out,), axis, rule_of(fmt, 1.0, _is_bfloat(x)), threads, step, fmt)
    product, q = scaled(x, step, fmt, axis)  # lanes apart in memory: three passes
    E = xp.empty_like(product)
    total = _run(product, (E,), axis, rule_of(fmt)._replace(r=compiled.F32(1), q=compiled.F32(1)), threads)
    return xp.astype(E * q, x.dtype), total


def encode(t: Array, fmt: Format, axis: int = -1, threads: int | None = None) -> tuple[Array, Array]:
    """(digits int16, states uint8) of integers t with f+1 fraction bits; beyond what two digits spell, t saturates."""
    xp = array_api_compat.array_namespace(t)
    digits, states = xp.empty_like(t, dtype=xp.int16), xp.empty_like(t, dtype=xp.uint8)
    _run(_integers(t, fmt), (digits, states), axis, rule_of(fmt), threads)
    return digits, states


def counts(t: Array, fmt: Format, axis: int = -1, threads: int | None = None) -> Counts:
    """Zeros, outliers, served and evicted values of integers t."""
    return _run(_integers(t, fmt), (), axis, rule_of(fmt), threads)


# From arrays to flat memory --------------------------------------------------------------------------


def cached() -> bool:
    """Whether both loops are compiled already, in this process or on disk. True where this numba does not tell."""
    try:
        loops: tuple[Any, ...] = compiled.lanes_inside, compiled.lanes_outside
        return all(loop.signatures or loop._cache._cache_file._load_index() for loop in loops)
    except (AttributeError, OSError):
        return True


@lru_cache(maxsize=1024)
def rule_of(fmt: Format, step: float = 1.0, bfloat: bool = False) -> compiled.Rule:
    fine = max(fmt.fine_min, (fmt.t_min + 1) >> 1), min(fmt.fine_max, (fmt.t_max + 1) >> 1)  # also where r = 0 saturates t to a digit
    numbers = (fmt.bits, fmt.fraction_bits, fmt.cascade, fmt.digit_min, fmt.digit_max, fmt.t_min, fmt.t_max, *seen(fmt), *fine)
    least = -(1 << fmt.fraction_bits >> 1) if fmt.signed else 0
    modes = (fmt.range_on, fmt.precision_on, fmt.policy == "largest")
    return compiled.Rule(*numbers, least, fmt.lanes or 0, *modes, fmt.evict or None, bfloat, *factors(step, fmt))


def _is_bfloat(x: Array) -> bool:
    return str(x.dtype) == "torch.bfloat16"


def _integers(t: Array, fmt: Format) -> Array:
    """As int32; wider integers saturate first, so that nothing wraps."""
    xp = array_api_compat.array_namespace(t)
    return t if t.dtype == xp.int32 else xp.astype(xp.clip(t, *seen(fmt)), xp.int32)


def _memory(x: Array) -> np.ndarray:
    """x's own memory as a NumPy array; 16-bit floats as their bit patterns."""
    if array_api_compat.is_torch_array(x):
        if x.device.type != "cpu":
            raise InputError(f"the numba backend works on the CPU, not on a tensor on {x.device}")
        x = x.detach()
        if _is_bfloat(x):
            return x.view(array_api_compat.array_namespace(x).int16).numpy().view(np.uint16)
        x = x.numpy()
    return x.view(np.uint16) if x.dtype == np.float16 else x


class _Order(NamedTuple):
    """A tensor's dimensions as they lie in memory, outermost first, and the sizes [outer, lanes, inner] that they make."""

    dims: list[int]
    outer: int
    lanes: int
    inner: int


def _order(layout: Array, axis: int) -> _Order:
    strides = layout.stride() if array_api_compat.is_torch_array(layout) else layout.strides
    dims = sorted(range(layout.ndim), key=lambda d: -abs(strides[d]) if layout.shape[d] > 1 else 0)
    place, shape = dims.index(axis % layout.ndim), [layout.shape[d] for d in dims]
    return _Order(dims, math.prod(shape[:place]), shape[place], math.prod(shape[place + 1 :]))


def _run(
    x: Array,
    out: tuple[Array, ...],
    axis: int,
    rule: compiled.Rule,
    threads: int | None,
    step: Array | Dynamic | None = None,
    fmt: Format | None = None,
) -> Counts:
    """Fill `out` (arrays of one layout) from x; the counts. step: where it is not one number, lanes last in memory, with its fmt."""
    source, targets = _memory(x), tuple(_memory(y) for y in out)
    if source.size == 0:
        return Counts()
    order = _order(targets[0] if targets else source, axis)
    flat = np.ascontiguousarray(source.transpose(order.dims)).reshape(-1)
    flats = tuple(y.transpose(order.dims).reshape(-1) for y in targets)
    threads = 1 if source.size <= SMALL else threads or _threads(x)
    if step is None or fmt is None:
        jobs = _jobs(flat, flats, order, rule, threads)
    else:
        jobs = _vector_jobs(flat, flats, order, rule, threads, _groups(step, x, fmt, axis, order))
    sums = np.zeros((len(jobs), 8), np.int64)  # a cache line each
    others = [pool(os.getpid(), threads).submit(job, sums[i]) for i, job in enumerate(jobs) if i]
    jobs[0](sums[0])
    for other in others:
        other.result()
    nonzero, outliers, served, precise, evicted = (int(n) for n in sums.sum(0)[:5])
    if not rule.range_on:  # what is served lies on a digit once t saturates, also where it was an outlier before
        served, precise = 0, served + precise
    return Counts(source.size, source.size - nonzero - evicted, outliers, served, precise, evicted)


class _Groups(NamedTuple):
    """How `vectors.vectors_inside` finds the factors of each group of `size` lanes."""

    size: int
    source: int
    alpha: np.float32
    r: np.ndarray  # float32 [positions · groups]
    q: np.ndarray


def _groups(step: Array | Dynamic, x: Array, fmt: Format, axis: int, order: _Order) -> _Groups:
    tile = min(fmt.lanes or order.lanes, order.lanes)
    if isinstance(step, Dynamic):
        size = tile if step.tiles else order.lanes
        room = np.empty((2, order.outer * -(-order.lanes // size)), np.float32)
        return _Groups(size, vectors.MAX if step.measure == "max" else vectors.RMS, np.float32(step.alpha), *room)
    r, q = (_memory(part) for part in factors_each(step, x, fmt, axis))
    shape = [r.shape[axis] if d == axis % x.ndim else x.shape[d] for d in range(x.ndim)]
    size = order.lanes if r.shape[axis] == 1 else tile
    r, q = (np.broadcast_to(part, shape).transpose(order.dims).flatten() for part in (r, q))
    return _Groups(size, vectors.GIVEN, np.float32(0), r, q)


def _vector_jobs(flat: Any, flats: Any, order: _Order, rule: compiled.Rule, threads: int, g: _Groups) -> list[Any]:
    rows = max(1, min(BLOCK // order.lanes, -(-order.outer // threads)))
    bounds = [order.outer * i // threads for i in range(threads + 1)]

    def job(a: int, b: int, sums: np.ndarray) -> None:
        vectors.vectors_inside(flat, flats, order.lanes, g.size, a, b, rows, rule, g.source, g.alpha, g.r, g.q, sums)

    return [partial(job, a, b) for a, b in pairwise(bounds) if a < b]


def _jobs(flat: Any, flats: Any, order: _Order, rule: compiled.Rule, threads: int) -> list[Any]:
    """One call per thread, each for its share of the positions."""
    _, outer, lanes, inner = order
    if inner == 1:
        rows = max(1, min(BLOCK // lanes, -(-outer // threads)))
        bounds = [outer * i // threads for i in range(threads + 1)]
        return [
            lambda sums, a=a, b=b: compiled.lanes_inside(flat, flats, lanes, a, b, rows, rule, sums) for a, b in pairwise(bounds) if a < b
        ]
    pieces = max(1, min(RUN // 8 // inner, outer // threads))
    size = -(-inner // max(-(-inner // RUN), -(-threads // outer)))  # a single image is cut so that every thread gets a piece
    if rule.evict:  # who gives way is known only farther on: all lanes at once, of fewer positions
        rows, most = lanes, max(64, BLOCK // lanes)
        size, pieces = min(size, most), pieces if size * pieces <= most else max(1, most // size)
    else:
        rows = min(lanes, max(BLOCK // (size * pieces), 2 * rule.cascade + 2))
    tasks = -(-outer // pieces) * -(-inner // size)
    bounds = [tasks * i // threads for i in range(threads + 1)]
    return [
        lambda sums, a=a, b=b: compiled.lanes_outside(flat, flats, lanes, inner, outer, a, b, size, pieces, rows, rule, sums)
        for a, b in pairwise(bounds)
        if a < b
    ]


# Threads ---------------------------------------------------------------------------------------------


def _threads(x: Array) -> int:
    if array_api_compat.is_torch_array(x):
        return int(array_api_compat.array_namespace(x).get_num_threads())
    return cpus()


def cpus() -> int:
    """Of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=4)
def pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of our own, started once per process (a fork starts anew); the compiled code releases the interpreter lock."""
    return ThreadPoolExecutor(threads, thread_name_prefix="overq")
