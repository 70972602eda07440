"""Windows over integers: padding, pooling, and by what an average is to be divided."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce
from itertools import product

import torch
from torch import Tensor

from overq.errors import InputError
from overq.nn.kinds import Pool


def padded(x: Tensor, dim: int, before: int, after: int, mode: str = "zeros", value: int = 0) -> Tensor:
    """x with that many values more at both ends of `dim`, fewer where negative; mode zeros (`value`), reflect, replicate or circular."""
    if not before and not after:
        return x
    size = x.shape[dim]
    if mode in ("zeros", "constant"):
        ends = [x.new_full([*x.shape[:dim], max(width, 0), *x.shape[dim + 1 :]], value) for width in (before, after)]
        kept = x.narrow(dim, max(-before, 0), size - max(-before, 0) - max(-after, 0))
        return torch.cat([ends[0], kept, ends[1]], dim)
    place = torch.arange(-before, size + after, device=x.device)
    if mode == "reflect":
        place = size - 1 - (size - 1 - place.abs()).abs()
    elif mode == "circular":
        place = place % size
    return x.index_select(dim, place.clamp(0, size - 1))


def taps(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], dim: int) -> Iterator[Tensor]:
    """For each position of a kernel window, row by row, what it sees at all output pixels; the window's first dim is x's `dim`."""
    sizes = x.shape[dim : dim + len(kernel)]
    counts = [(size - d * (k - 1) - 1) // s + 1 for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)]
    if min(counts) < 1:
        raise InputError(f"a window of {tuple(kernel)} does not fit into {tuple(sizes)} pixels")
    before = (slice(None),) * dim
    for place in product(*map(range, kernel)):
        starts = [p * d for p, d in zip(place, dilation, strict=True)]
        cuts = [slice(start, start + (count - 1) * s + 1, s) for start, count, s in zip(starts, counts, stride, strict=True)]
        yield x[(*before, *cuts)]


def greatest(x: Tensor, pool: Pool) -> Tensor:
    """The maximum of every window; what lies beyond the border is below everything."""
    x, dim = _bordered(x, pool, torch.iinfo(x.dtype).min)
    return reduce(torch.maximum, taps(x, pool.kernel, pool.stride, pool.dilation, dim))


def average(x: Tensor, pool: Pool) -> tuple[Tensor, int | Tensor]:
    """(sums of the windows, by what to divide them): one number, or int64 by position where a border changes it."""
    summed, dim = _bordered(x, pool, 0)
    total = reduce(torch.add, taps(summed, pool.kernel, pool.stride, pool.dilation, dim))
    if pool.divisor is not None:
        return total, pool.divisor
    counts = []
    for i, kernel in enumerate(pool.kernel):
        size, pad = x.shape[dim + i], pool.padding[i]
        start = torch.arange(total.shape[dim + i]) * pool.stride[i] - pad
        end = (start + kernel).clamp(max=size + pad)
        counts.append(end - start if pool.include_pad else end.clamp(max=size) - start.clamp(min=0))
    divisor = reduce(lambda rows, more: rows[..., None] * more, counts)
    return total, int(divisor.flatten()[0]) if bool((divisor == divisor.flatten()[0]).all()) else divisor


def _bordered(x: Tensor, pool: Pool, value: int) -> tuple[Tensor, int]:
    """(x with the pool's border of `value`s and what ceil mode adds behind it, first dim of the window)."""
    dim = x.ndim - len(pool.kernel)
    for i, (kernel, stride, pad, dilation) in enumerate(zip(pool.kernel, pool.stride, pool.padding, pool.dilation, strict=True)):
        more = _beyond(x.shape[dim + i], dilation * (kernel - 1) + 1, stride, pad) if pool.ceil else 0
        x = padded(x, dim + i, pad, pad + more, value=value)
    return x, dim


def _beyond(size: int, kernel: int, stride: int, pad: int) -> int:
    """How far ceil mode's last window sticks out of the padded input; a window must start inside the input or its left padding."""
    count = -(-(size + 2 * pad - kernel) // stride) + 1
    if (count - 1) * stride >= size + pad:
        count -= 1
    return max((count - 1) * stride + kernel - size - 2 * pad, 0)


def repeated(x: Tensor, factors: tuple[int, ...] | int) -> Tensor:
    """Every value as often as `factors` say in the last dims."""
    each = factors if isinstance(factors, tuple) else (factors,) * (x.ndim - 2)
    for i, factor in enumerate(reversed(each)):
        x = x.repeat_interleave(factor, dim=x.ndim - 1 - i)
    return x


def _regions(size: int, wanted: int | None) -> list[slice]:
    """The framework's adaptive regions of a dim: floor(i · size / wanted) to ceil((i + 1) · size / wanted)."""
    count = size if wanted is None else wanted
    return [slice(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _adaptive(x: Tensor, size: tuple[int | None, ...]) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    dim = x.ndim - len(size)
    for cut in product(*(_regions(x.shape[dim + i], wanted) for i, wanted in enumerate(size))):
        region = x[(slice(None),) * dim + cut]
        yield region, tuple(region.shape[dim:])


def _grid(x: Tensor, size: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(x.shape[x.ndim - len(size) + i] if wanted is None else wanted for i, wanted in enumerate(size))


def adaptive_greatest(x: Tensor, size: tuple[int | None, ...]) -> Tensor:
    """The maximum of every adaptive region."""
    dims = tuple(range(-len(size), 0))
    return torch.stack([region.amax(dims) for region, _ in _adaptive(x, size)], -1).unflatten(-1, _grid(x, size))


def adaptive_average(x: Tensor, size: tuple[int | None, ...]) -> tuple[Tensor, int | Tensor]:
    """(sums of the adaptive regions, their areas)."""
    dims = tuple(range(-len(size), 0))
    parts = [(region.sum(dims), math.prod(shape)) for region, shape in _adaptive(x, size)]
    total = torch.stack([part for part, _ in parts], -1).unflatten(-1, _grid(x, size))
    areas = [area for _, area in parts]
    return total, areas[0] if len(set(areas)) == 1 else torch.tensor(areas).reshape(_grid(x, size))
