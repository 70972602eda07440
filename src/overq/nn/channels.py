"""Where a tensor's channels lie, and what an operation that keeps values whole does to them.

Channels are a list of whatever stands for one of them: atoms of `nn.streams`, or anything else that can be sliced and joined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from overq.nn.kinds import AdaptivePool, Cat, Flatten, Move, Pad, Pick, Pool, Reduce, Ref, Reshape, Split, Upsample


@dataclass(frozen=True)
class Channels:
    """items     one for each channel
    rank      of the tensor; None: at least 2, not known
    last      channels lie along the last dim; else along dim 1
    single    all dims but the batch and the channels are one wide
    """

    items: list[int]
    rank: int | None
    last: bool = False
    single: bool = False

    @property
    def axis(self) -> int:
        """Of the channels: from the front, or -1 where the rank is not known."""
        return 1 if not self.last else -1 if self.rank is None else self.rank - 1

    def here(self, dim: int) -> bool | None:
        """Whether `dim` is the channels'; None where that cannot be told."""
        if self.rank is None:
            near = {-1: True} if self.last else {1: True, 0: False}
            return near.get(dim, False if self.last and dim < 0 else None)
        return dim % self.rank == self.axis

    def like(self, other: Channels) -> bool:
        """As many channels in the same place."""
        same = self.rank == other.rank and self.axis == other.axis
        return same and len(self.items) == len(other.items)


def pooled(x: Channels, op: Pool | AdaptivePool) -> Channels | None:
    """Windows beside the channels."""
    size = len(op.kernel) if isinstance(op, Pool) else len(op.size)
    if x.rank is None or x.axis >= x.rank - size:
        return None
    return replace(x, single=isinstance(op, AdaptivePool) and set(op.size) == {1} and size == x.rank - 2)


def upsampled(x: Channels, op: Upsample) -> Channels | None:
    """Pixels repeated beside the channels."""
    size = op.factors if isinstance(op.factors, tuple) else (op.factors,)
    return replace(x, single=False) if x.rank is not None and x.axis < x.rank - len(size) else None


def reduced(x: Channels, op: Reduce) -> Channels | None:
    if x.rank is None or op.dims is None:
        return None
    dims = {d % x.rank for d in op.dims}
    if x.axis in dims or 0 in dims:
        return None
    whole = len(dims) == x.rank - 2
    return replace(x, single=whole) if op.keep else replace(x, rank=x.rank - len(dims), single=whole)


def flattened(x: Channels, op: Flatten) -> Channels | None:
    """From dim 1 on, pixels that are left stand between the channels: whoever reads them sees that there are more."""
    if x.rank is None:
        return None
    start, end = op.start % x.rank, op.end % x.rank
    if start == 1 and end == x.rank - 1 and (not x.last or x.rank == 2):
        return replace(x, rank=2, single=x.single)
    if (x.last and end < x.rank - 1) or (not x.last and start > 1):
        return replace(x, rank=x.rank - (end - start))
    return None


def reshaped(x: Channels, op: Reshape) -> Channels | None:
    """(batch, anything) is flatten(1); (batch, channels, …) keeps them in place."""
    if x.rank is None or (x.last and x.rank > 2) or len(op.shape) < 2:
        return None
    first, second, *others = op.shape
    batch = isinstance(first, Ref) and first.size is not None and first.size[1] == 0
    alone = x.single or x.rank == 2
    if not batch and not (first == -1 and second == len(x.items) and alone and all(n == 1 for n in others)):
        return None
    if not others:
        return replace(x, rank=2)
    kept = second == len(x.items) or (isinstance(second, Ref) and second.size is not None and second.size[1] == 1)
    return Channels(x.items, len(op.shape), single=all(n == 1 for n in others)) if kept else None


def picked(x: Channels, op: Pick) -> Channels | None:
    """Slices of any dim, single places of all dims but batch and channels."""
    if x.rank is None or any(item is None or not isinstance(item, (int, slice, type(...))) for item in op.index):
        return None
    index = list(op.index)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index[at : at + 1] = [slice(None)] * (x.rank - len(index) + 1)
    dropped = [i for i, item in enumerate(index) if isinstance(item, int)]
    if x.axis in dropped or 0 in dropped:
        return None
    items = x.items[index[x.axis]] if x.axis < len(index) else x.items
    return replace(x, items=items, rank=x.rank - len(dropped), single=x.single and not dropped)


def split(x: Channels, op: Split) -> list[Channels] | None:
    """The parts, where all of them are of channels; a list of one where the cut is elsewhere and every part is alike."""
    here = x.here(op.dim)
    if here is None:
        return None
    return [replace(x, items=x.items[a:b]) for a, b in op.bounds(len(x.items))] if here else [x]


def concatenated(parts: Sequence[Channels], op: Cat) -> Channels | None:
    """Channel after channel; None where the joint is not along them."""
    first = parts[0]
    alike = all(p.rank == first.rank and p.axis == first.axis for p in parts)
    if not alike or not first.here(op.dim):
        return None
    return replace(first, items=[item for p in parts for item in p.items], single=all(p.single for p in parts))


def padded(x: Channels, op: Pad) -> tuple[int, int] | None:
    """(before, behind): how many channels are added, or cut where negative; None where that is not known or not constants."""
    place = 0 if x.last else None if x.rank is None else x.rank - 2
    if place is None:
        return None
    before, behind = (*op.widths, *[0] * (2 * place + 2))[2 * place : 2 * place + 2]
    return (before, behind) if op.mode == "constant" or not (before or behind) else None


def moved(x: Channels, op: Move) -> Channels | None:
    """permute, transpose, squeeze and unsqueeze."""
    if x.rank is None or op.dims is None:
        return None
    rank, dims = x.rank, [d % x.rank for d in op.dims]
    if op.name == "transpose" and len(dims) == 2:
        order = list(range(rank))
        order[dims[0]], order[dims[1]] = dims[1], dims[0]
    elif op.name == "permute" and len(dims) == rank:
        order = dims
    elif op.name == "squeeze" and x.single and not {0, x.axis} & set(dims):
        return replace(x, rank=rank - len(dims) if dims else 2)
    elif op.name == "unsqueeze" and not x.last and op.dims[0] % (rank + 1) > 1:
        return replace(x, rank=rank + 1, single=x.single or rank == 2)
    else:
        return None
    axis = order.index(x.axis)
    return replace(x, last=axis == rank - 1) if order[0] == 0 and axis in (1, rank - 1) else None


# What an operation of each kind that reads one tensor does to where its channels lie.
CHANGES: tuple[tuple[type, Callable[[Channels, Any], Channels | None]], ...] = (
    (Upsample, upsampled),
    (Reduce, reduced),
    (Flatten, flattened),
    (Reshape, reshaped),
    (Pick, picked),
    (Move, moved),
)
