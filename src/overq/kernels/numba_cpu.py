"""OverQ on the CPU at memory speed, compiled by Numba: one pass, several threads, NumPy arrays or torch tensors.

A tensor whose memory is dense is used as it lies, seen as [O, K, I]: K lanes, O positions outside them in memory and I inside
(contiguous NCHW: I = H·W; channels-last and [..., K]: I = 1). Any other strides are copied once. `compiled.py` does the work.

Threads: as many as torch.get_num_threads() says for a torch tensor, else one per CPU of this process; `threads=` overrides.
The compiled code is cached on disk beside the package, or where NUMBA_CACHE_DIR says.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import array_api_compat
import numpy as np

from overq.errors import InputError
from overq.kernels import compiled
from overq.kernels.array import effective
from overq.kernels.scale import Step, factors, is_one, scaled
from overq.spec import Counts, Format, seen

__all__ = ["MODES", "available", "counts", "effective", "encode", "overwrite", "overwrite_counted"]

Array = Any  # numpy.ndarray, or torch.Tensor on the CPU
MODES = ("range", "precision")
BLOCK = 65536  # values in flight per thread: t, flags and bits together take about 6 bytes each and should fit the L2 cache
RUN = 4096  # most positions that are contiguous in memory and go together
SMALL = 32768  # values that are not worth a second thread


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
    product, q = scaled(x, step, fmt, axis)
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
    """Zeros, outliers and served values of integers t."""
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
    return compiled.Rule(*numbers, least, fmt.lanes or 0, *modes, bfloat, *factors(step, fmt))


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


def _run(x: Array, out: tuple[Array, ...], axis: int, rule: compiled.Rule, threads: int | None) -> Counts:
    """Fill `out` (arrays of one layout) from x; the counts."""
    source, targets = _memory(x), tuple(_memory(y) for y in out)
    if source.size == 0:
        return Counts()
    layout = targets[0] if targets else source
    order = sorted(range(source.ndim), key=lambda d: -abs(layout.strides[d]) if layout.shape[d] > 1 else 0)
    flat = np.ascontiguousarray(source.transpose(order)).reshape(-1)
    flats = tuple(y.transpose(order).reshape(-1) for y in targets)
    place, shape = order.index(axis % source.ndim), [source.shape[d] for d in order]
    outer, lanes, inner = int(np.prod(shape[:place])), shape[place], int(np.prod(shape[place + 1 :]))
    threads = 1 if source.size <= SMALL else threads or _threads(x)
    jobs = _jobs(flat, flats, outer, lanes, inner, rule, threads)
    sums = np.zeros((len(jobs), 8), np.int64)  # a cache line each
    others = [pool(os.getpid(), threads).submit(job, sums[i]) for i, job in enumerate(jobs) if i]
    jobs[0](sums[0])
    for other in others:
        other.result()
    nonzero, outliers, served, precise = (int(n) for n in sums.sum(0)[:4])
    if not rule.range_on:  # what is served lies on a digit once t saturates, also where it was an outlier before
        served, precise = 0, served + precise
    return Counts(source.size, source.size - nonzero, outliers, served, precise)


def _jobs(flat: Any, flats: Any, outer: int, lanes: int, inner: int, rule: compiled.Rule, threads: int) -> list[Any]:
    """One call per thread, each for its share of the positions."""
    if inner == 1:
        rows = max(1, min(BLOCK // lanes, -(-outer // threads)))
        bounds = [outer * i // threads for i in range(threads + 1)]
        return [
            lambda sums, a=a, b=b: compiled.lanes_inside(flat, flats, lanes, a, b, rows, rule, sums) for a, b in pairwise(bounds) if a < b
        ]
    pieces = max(1, min(RUN // 8 // inner, outer // threads))
    size = -(-inner // max(-(-inner // RUN), -(-threads // outer)))  # a single image is cut so that every thread gets a piece
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
