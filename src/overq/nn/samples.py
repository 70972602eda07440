"""Samples on their way to a model: what kinds there are, and how they are cut anew so that the way they come does not matter.

One tensor, the same samples as one batch or as many, in any memory layout, from a list or a generator: the model runs them in the same
chunks of the same memory layout, so that every sum over them has the same terms in the same order, and costs the same.

That is right where a model treats each sample by itself. Whether it does, and whether the first axis counts samples, is tried on the
first three of them: the last two alone must give what they give beside the first. Where they do not (axes [time, samples], one unbatched
image a batch, a model that compares the samples of a batch), or where nothing can be told, batches are run as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import nn

from overq.errors import CalibrationError, OverqError
from overq.nn.call import Forward, arguments, left_out, parameters, run
from overq.nn.compute import Count, counted
from overq.nn.trees import filled, flatten, home, moved

CHUNK = 32  # samples at most that run together
ROOM = 1 << 26  # values at most in the largest tensor of a run, as far as one sample leaves a choice
FEW = 3  # samples on which cutting is tried
AHEAD = 64  # batches read at most to find them
AT_ONCE = 1 << 20  # values of two outputs that are compared at a time


@dataclass(frozen=True)
class Part:
    """Samples that belong together. rows: how many; None where its tensors have no common first axis."""

    tensors: list[torch.Tensor]
    structure: Any
    rows: int | None

    @property
    def batch(self) -> Any:
        return filled(self.structure, self.tensors)

    def cut(self, start: int, stop: int) -> Part:
        """Some of its samples, by position."""
        return Part([t[start:stop] if t.ndim else t for t in self.tensors], self.structure, min(stop, self.rows or 0) - start)

    def like(self, other: Part) -> bool:
        """Whether both can be parts of one batch."""
        if self.rows is None or other.rows is None or not _same(self.structure, other.structure):
            return False
        return all(
            a.shape[1:] == b.shape[1:] and a.dtype == b.dtype and (a.ndim > 0) == (b.ndim > 0) and (a.ndim > 0 or torch.equal(a, b))
            for a, b in zip(self.tensors, other.tensors, strict=True)
        )


def _same(structure: Any, other: Any) -> bool:
    try:
        return bool(structure == other)
    except (RuntimeError, TypeError, ValueError):  # something inside compares in a way of its own
        return False


@dataclass
class Stream:
    """Samples as a model gets them: `for part in stream` and `stream.forward(model, part.batch)`.

    bound     whether a batch is (arguments by position, by name), as the default forward takes it
    together  whether batches are cut and joined anew
    peak      values a sample in the largest tensor, where it was tried
    size      values of the samples that were tried, each
    count     of the multiply-accumulates, where they were tried
    facts     how many batches came, how many were empty, how many items of a batch are not passed
    hint      name of an item that may say what is padded, though no mask was named
    """

    parts: Iterator[Part]
    forward: Forward
    bound: bool = False
    together: bool = False
    peak: int = 0
    size: int = 1
    count: Count | None = None
    facts: dict[str, int] = field(default_factory=dict)
    hint: str = ""

    def __iter__(self) -> Iterator[Part]:
        return joined(self.parts, self.rows) if self.together else map(fresh, self.parts)

    def rows(self, part: Part, most: int = CHUNK) -> int:
        """How many samples like these run at once: as many as have room, a power of two."""
        growth = (sum(t[0].numel() for t in part.tensors if t.ndim) / self.size) ** 2  # attention grows with the square
        room = int(ROOM / max(self.peak * growth, 1.0))
        return min(most, 1 << max(room.bit_length() - 1, 0))


def opened(model: nn.Module, samples: Any, forward: Forward = run, *, like: Stream | None = None) -> Stream:
    """The stream of samples for a model in eval mode. like: an earlier stream of the same samples, so that nothing is tried again.

    Raises CalibrationError where there is no sample, or one that cannot be passed to the model.
    """
    facts: dict[str, int] = {}
    _check_tuple(model, samples, forward)
    parts = _parts(model, samples, forward, facts)
    call = _call if forward is run else forward
    head, alike = _head(parts)
    if not head:
        empty = "empty" in facts and not isinstance(samples, torch.Tensor)
        raise CalibrationError("no calibration samples: " + ("every batch is empty" if empty else "give at least one batch"))
    stream = Stream(chain(head, parts), call, forward is run, facts=facts)
    if like is not None:
        stream.together, stream.peak, stream.size = like.together, like.peak, like.size
    else:
        _try(model, stream, alike)
    return stream


def _head(parts: Iterator[Part]) -> tuple[list[Part], list[Part]]:
    """(all parts read, those to try: the first samples of one kind that are at least two); [] where `AHEAD` parts hold none such."""
    head: list[Part] = []
    alike: list[Part] = []
    for part in parts:
        if alike and not part.like(alike[0]):
            if sum(p.rows or 0 for p in alike) > 1:
                return [*head, part], alike
            alike = []
        head.append(part)
        if part.rows is not None:
            alike.append(part)
        if sum(p.rows or 0 for p in alike) >= FEW or len(head) == AHEAD:
            break
    return head, alike


def batches(samples: Any) -> Iterable[Any]:
    """A tensor, an array or a mapping is one batch; any other iterable gives its items."""
    if isinstance(samples, (torch.Tensor, Mapping)) or type(samples).__module__ == "numpy":
        return (samples,)
    if isinstance(samples, (str, bytes)) or not isinstance(samples, Iterable):
        hint = ": wrap it in a DataLoader" if hasattr(samples, "__getitem__") and not isinstance(samples, (str, bytes)) else ""
        raise CalibrationError(f"samples must be a tensor or an iterable of batches, not {type(samples).__name__}{hint}")
    if isinstance(samples, tuple) and len({(t.dtype, t.ndim) for t in samples if isinstance(t, torch.Tensor)}) > 1:
        raise CalibrationError("samples are a tuple of unlike tensors: one batch of several items is [(first, second)], a list of it")
    return samples


def _check_tuple(model: nn.Module, samples: Any, forward: Forward) -> None:
    """Refuse a tuple that could be one batch of several arguments, or several batches."""
    if isinstance(samples, tuple) and len(samples) > 1 and forward is run:
        takes = parameters(model)
        if len(samples) <= len(takes.required + takes.optional):
            raise CalibrationError(
                f"samples are a tuple of {len(samples)}, and the model's forward takes {', '.join(takes.required + takes.optional)}: "
                "one batch of several items is [(first, second)], several batches are a list [first, second]"
            )


def _parts(model: nn.Module, samples: Any, forward: Forward, facts: dict[str, int]) -> Iterator[Part]:
    """Every batch that holds samples, bound to the model's arguments where `forward` is the default."""
    for batch in batches(samples):
        _known(batch, forward)
        facts["batches"] = facts.get("batches", 0) + 1
        if forward is run:
            facts["unpassed"] = max(facts.get("unpassed", 0), left_out(model, batch))
            batch = arguments(model, batch)
        tensors, structure = flatten(batch)
        for tensor in tensors:
            _check(tensor)
        lengths = {t.shape[0] for t in tensors if t.ndim}
        rows = lengths.pop() if len(lengths) == 1 else None
        if rows == 0:
            facts["empty"] = facts.get("empty", 0) + 1
        else:
            yield Part(tensors, structure, rows)


def _known(batch: Any, forward: Forward) -> None:
    """Refuse what no forward of a network takes, before Python's own words for it."""
    if forward is run and (batch is None or isinstance(batch, (str, bytes, int, float))):
        raise CalibrationError(f"a batch must be a tensor, an array, a tuple, a list or a mapping of them, not {type(batch).__name__}")


def _check(tensor: torch.Tensor) -> None:
    if tensor.is_meta:
        raise CalibrationError("the samples are on the meta device, where tensors hold no values")
    kind = "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else "sparse" if tensor.layout != torch.strided else ""
    if kind:
        raise CalibrationError(f"the samples hold a {kind} tensor: give dense ones of plain numbers")


def _call(model: nn.Module, bound: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    return model(*bound[0], **bound[1])


def fresh(*parts: Part) -> Part:
    """Like parts as one, in new memory that is contiguous and aligned, so that the same kernels run whatever the samples' layout was."""
    tensors = []
    for pieces in zip(*(part.tensors for part in parts), strict=True):
        first, rows = pieces[0], sum(len(piece) for piece in pieces) if pieces[0].ndim else 0
        whole = torch.empty((rows, *first.shape[1:]) if first.ndim else (), dtype=first.dtype, device=first.device)
        start = 0
        for piece in pieces:
            (whole[start : start + len(piece)] if first.ndim else whole).copy_(piece.detach())
            start += len(piece) if first.ndim else 0
        tensors.append(whole)
    rows_known = [part.rows for part in parts if part.rows is not None]
    return Part(tensors, parts[0].structure, sum(rows_known) if len(rows_known) == len(parts) else None)


def joined(parts: Iterable[Part], rows: Callable[[Part], int]) -> Iterator[Part]:
    """The samples in chunks of `rows` of them; a shorter one at the end, and where the samples change their shape."""
    waiting: list[Part] = []
    for part in parts:
        if part.rows is None:
            yield from _emptied(waiting)
            yield fresh(part)
            continue
        if waiting and not part.like(waiting[0]):
            yield from _emptied(waiting)
        size, start = rows(part), 0
        while start < part.rows:
            piece = part.cut(start, start + size - sum(p.rows or 0 for p in waiting))
            waiting.append(piece)
            start += piece.rows or 0
            if sum(p.rows or 0 for p in waiting) == size:
                yield from _emptied(waiting)
    yield from _emptied(waiting)


def _emptied(waiting: list[Part]) -> Iterator[Part]:
    if waiting:
        yield fresh(*waiting)
        waiting.clear()


def _try(model: nn.Module, stream: Stream, alike: list[Part]) -> None:
    """Run the first samples together and without the first of them, and note what that tells."""
    few = next(joined(alike, lambda part: FEW), None)
    if few is None or few.rows is None or few.rows < 2:
        return
    last = fresh(few.cut(1, few.rows))
    assert last.rows is not None
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            whole = flatten(stream.forward(model, moved(few.batch, *home(model))))[0]
            with counted(model) as count:
                alone = flatten(stream.forward(model, moved(last.batch, *home(model))))[0]
    except OverqError:
        raise
    except Exception:  # whatever a foreign forward raises: its true error shows when the batches are run as they come
        return
    stream.count, stream.peak = count, -(-count.peak // last.rows)
    stream.size = max(1, sum(t[0].numel() for t in last.tensors if t.ndim))
    stream.together = _agree(whole, alone, few.rows, last.rows)


def _agree(whole: list[torch.Tensor], alone: list[torch.Tensor], rows: int, last: int) -> bool:
    """Whether the outputs tell the samples apart along their first axis, and do not depend on what ran beside a sample."""
    told = False
    if len(whole) != len(alone):
        return False
    for a, b in zip(whole, alone, strict=True):
        if not a.ndim or a.shape[0] != rows:
            continue
        if b.shape[:1] != (last,) or a.shape[1:] != b.shape[1:]:
            return False
        told = True
        x, y = a[-last:].detach(), b.detach()
        if x.is_floating_point():
            share = 1e-3 if x.dtype in (torch.float32, torch.float64) else 3e-2
            parts = list(zip(x.flatten().split(AT_ONCE), y.flatten().split(AT_ONCE), strict=True))
            bound = share * max((part.double().abs().nan_to_num(0, 0, 0).max().item() for part, _ in parts if part.numel()), default=0.0)
            if not all(torch.allclose(one.double(), two.double(), rtol=0, atol=bound, equal_nan=True) for one, two in parts):
                return False
        elif not torch.equal(x, y):
            return False
    return told
