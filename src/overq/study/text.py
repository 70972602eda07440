"""Text: files in windows of token numbers, and what is measured of a network's next tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from overq.compare import AGREEMENT, PERPLEXITY
from overq.errors import InputError
from overq.study.data import Images, from_tensors

AT_ONCE = 128  # tokens whose distributions are held at a time


def windows(name: str, ids: torch.Tensor, length: int, limit: int | None = None) -> Images:
    """Token numbers int64 [N] cut end to end into windows, "images" of `length` tokens; what is left at the end is not used.

    limit: so many windows at most, the first ones. InputError where there is not even one.
    """
    if length < 2:
        raise InputError(f"a window needs at least 2 tokens, not {length}: the second is predicted from the first")
    if len(ids) < length:
        raise InputError(f"{name}: {len(ids)} tokens do not fill one window of {length}")
    return from_tensors(name, ids[: len(ids) // length * length].view(-1, length)[:limit])


def read_text(path: Path) -> str:
    """A text file, UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable text file ({getattr(error, 'strerror', None) or error})") from error


def open_text(path: Path, encode: Callable[[str], list[int]], length: int, limit: int | None = None) -> Images:
    """The windows of a text file."""
    return windows(path.name, torch.tensor(encode(read_text(path)), dtype=torch.int64), length, limit)


def next_tokens(measure: str, scores: torch.Tensor, ids: torch.Tensor, exact: torch.Tensor | None) -> np.ndarray:
    """Float64 [N, 2]: the measure summed over a window's predicted tokens, and how many there are.

    scores  float [N, T, vocabulary]; those at t predict token t + 1
    ids     int64 [N, T]
    exact   the float network's scores, for all but perplexity
    perplexity: negative log-likelihood in nats; agreement: tokens with the float network's choice; kl: divergence of the distribution
    from the float network's, in nats. InputError where the network gave something else.
    """
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or ids.is_floating_point() or scores.shape[:-1] != ids.shape:
        got = f"{list(ids.shape)} {str(ids.dtype).removeprefix('torch.')}" if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise InputError(f"{measure} needs scores [N, T, vocabulary] of token numbers [N, T], got {list(scores.shape)} of {got}")
    if int(ids.max()) >= scores.shape[-1]:
        raise InputError(f"{measure}: token {int(ids.max())} is beyond the network's vocabulary of {scores.shape[-1]}")
    total, last = np.zeros(len(ids)), ids.shape[1] - 1
    for start in range(0, last, AT_ONCE):
        end = min(start + AT_ONCE, last)
        given, following = scores[:, start:end].float(), ids[:, start + 1 : end + 1].cpu()
        if measure == PERPLEXITY:
            part = given.logsumexp(-1) - given.gather(-1, following[..., None])[..., 0]
        else:
            assert exact is not None  # the caller knows its measures
            part = _against(measure, given, exact[:, start:end].float())
        total += part.double().sum(1).numpy()
    return np.stack([total, np.full(len(ids), float(last))], 1)


def _against(measure: str, given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """[N, tokens] of scores and the float network's."""
    if measure == AGREEMENT:
        return (given.argmax(-1) == wanted.argmax(-1)).float()
    p = wanted.log_softmax(-1)
    return (p.exp() * (p - given.log_softmax(-1))).sum(-1)
