"""Positions that hold no value of the model's: which ones a batch pads, and how a layer's input is told by them.

A mask is known where the caller names one (`mask` of `observe` and `quantize`), and otherwise where `nn.TransformerEncoder` is given
`src_key_padding_mask`: from there on, or only inside the encoder if the model has a decoder, whose positions are others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import numpy as np
import torch
from torch import nn

from overq.errors import CalibrationError
from overq.nn.call import parameters

Mask = str | Callable[[Any], Any] | torch.Tensor | np.ndarray


@dataclass(frozen=True)
class Keep:
    """Bool [N, T, ...], true where a position is real. ambiguous: N = T, and the model has layers with time first."""

    real: torch.Tensor
    ambiguous: bool = False

    def of(self, shape: torch.Size) -> torch.Tensor | None:
        """The mask of positions of that shape, which may have further axes; None where it says nothing of them."""
        real = self.real
        flat, swapped = shape == (real.numel(),), real.ndim > 1 and shape[:2] == (real.shape[1], real.shape[0])
        if real.ndim > 1 and swapped and self.ambiguous:
            raise CalibrationError(f"the mask is square, {list(real.shape)}, and the model has layers with time first: give other samples")
        if shape[: real.ndim] != real.shape:
            if flat and not self.ambiguous:
                real = real.reshape(-1)
            elif swapped and shape[2 : real.ndim] == real.shape[2:]:
                real = real.transpose(0, 1)
            else:
                return None
        return real.reshape(*real.shape, *[1] * (len(shape) - real.ndim)).expand(shape)


_KEEP: ContextVar[Keep | None] = ContextVar("overq_keep", default=None)


def current() -> Keep | None:
    """What is known of the batch that runs in this thread."""
    return _KEEP.get()


@contextmanager
def known(keep: Keep | None) -> Iterator[None]:
    """Within the block, layers know which positions are real; whatever an encoder adds ends with it."""
    token = _KEEP.set(keep)
    try:
        yield
    finally:
        _KEEP.reset(token)


def keep_of(model: nn.Module, mask: Mask | None, batch: Any, bound: bool, first: int, rows: int | None) -> Keep | None:
    """The mask of one batch.

    mask    a name: the batch's item, or forward's parameter, that is true (1) where a position is real; behind a "~" one that is true
            where it is padded. A function of what of the batch is passed to the model. Or a bool tensor [samples, positions] of all samples
    bound   whether the batch is (arguments by position, by name)
    first, rows  which of all samples the batch holds
    """
    if mask is None:
        return None
    if isinstance(mask, str):
        if "padding_mask" in mask and not mask.startswith("~"):
            raise CalibrationError(f"a {mask!r} is true where it is padded, by convention: name it '~{mask}' or give a function")
        real = _named(model, mask.removeprefix("~"), batch, bound)
        real = ~_boolean(real) if mask.startswith("~") else _boolean(real)
    elif callable(mask):
        args, keywords = batch if bound else ((batch,), {})
        real = _boolean(mask(keywords or (args[0] if len(args) == 1 else args)))
    else:
        whole = torch.as_tensor(mask)
        if rows is None or first + rows > len(whole):
            raise CalibrationError(f"the mask has {len(whole)} rows, the samples {'more' if rows else 'no number of them'}")
        real = _boolean(whole[first : first + rows])
    if not real.ndim:
        raise CalibrationError("the mask of a batch must be a bool tensor of its positions, [samples, positions], not one value")
    square = real.ndim > 1 and real.shape[0] == real.shape[1]
    return Keep(real, square and any(getattr(m, "batch_first", True) is False for m in model.modules()))


def _named(model: nn.Module, name: str, batch: Any, bound: bool) -> Any:
    """The item of that name. PyTorch's and others' "padding masks" are true where padded."""
    args, keywords = batch if bound else ((), batch if isinstance(batch, dict) else {})
    if name in keywords:
        return keywords[name]
    names = parameters(model).names
    if name in names[: len(args)]:
        return args[names.index(name)]
    given = [*names[: len(args)], *keywords]
    raise CalibrationError(f"no mask {name!r} in the batch, which holds {', '.join(map(str, given)) or 'no named item'}")


def _boolean(mask: Any) -> torch.Tensor:
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool and bool(((mask != 0) & (mask != 1)).any()):
        raise CalibrationError("a mask must hold true and false, or 1 and 0, not other numbers")
    return mask != 0


@contextmanager
def followed(model: nn.Module) -> Iterator[None]:
    """Within the block, encoders that are given a padding mask make it known, unless the caller named one."""
    decodes = any(isinstance(m, (nn.TransformerDecoder, nn.TransformerDecoderLayer)) for m in model.modules())
    before: dict[tuple[int, nn.Module], Keep | None] = {}

    def enter(encoder: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        mask = keywords.get("src_key_padding_mask", args[2] if len(args) > 2 else None)
        before[get_ident(), encoder] = _KEEP.get()
        if mask is None:
            return
        padded = mask if mask.dtype == torch.bool else mask == float("-inf")
        if (keep := _KEEP.get()) is not None:
            if bool(padded.any()) and keep.real.shape == padded.shape and torch.equal(keep.real.to(padded.device), padded):
                raise CalibrationError("the mask says real just where the model's encoder is told of padding: name it with a ~ before it")
            return
        attention = (encoder.layers[0] if isinstance(encoder, nn.TransformerEncoder) else encoder).self_attn
        _KEEP.set(Keep(~padded if attention.batch_first else ~padded.T))

    def leave(encoder: Any, args: Any, out: Any) -> None:
        if decodes:
            _KEEP.set(before[get_ident(), encoder])

    encoders = [m for m in model.modules() if isinstance(m, (nn.TransformerEncoder, nn.TransformerEncoderLayer))]
    handles = [m.register_forward_pre_hook(enter, with_kwargs=True) for m in encoders]
    handles += [m.register_forward_hook(leave, always_call=True) for m in encoders]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
