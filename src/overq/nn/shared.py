"""What layers that read one tensor share: its quantized values, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import ref

import torch


class Shared:
    """The last tensor that one of `readers` layers quantized, kept until all of them have read it.

    A tensor is known by identity and version, so one that was written to since, or that a hook replaced, is quantized anew; so is one
    that is read with gradients after it was quantized without, and whatever is traced or compiled. Copies and threads begin empty or find
    another thread's tensor, which is not theirs.
    """

    def __init__(self, readers: int) -> None:
        self.readers = readers
        self._last: tuple[Any, ...] | None = None  # replaced as a whole, never changed: threads may share it

    def quantized(self, x: torch.Tensor, fitted: Any, arrangement: tuple[Any, ...], make: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        """`make(x)`, or what it gave for the same tensor, method, step and arrangement of channels."""
        if type(x) not in (torch.Tensor, torch.nn.Parameter) or x.is_inference() or torch.compiler.is_compiling():
            return make(x)
        last, now = self._last, (x._version, torch.is_grad_enabled())
        if (
            last is not None
            and last[0]() is x
            and last[1] == now
            and (last[2] is fitted or last[2] == fitted)
            and _same(last[3], arrangement)
        ):
            self._last = (*last[:-1], last[-1] - 1) if last[-1] > 1 else None
            return last[4]
        y = make(x)
        self._last = (ref(x), now, fitted, arrangement, y, self.readers - 1)
        return y

    def __getstate__(self) -> dict[str, Any]:
        return {"readers": self.readers, "_last": None}


def share(layers: Iterable[Any]) -> None:
    """Let quantized layers that read the same tensor quantize it once."""
    layers = list(layers)
    shared = Shared(len(layers)) if len(layers) > 1 else None
    for layer in layers:
        layer.shared = shared


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(one, other, strict=True))
