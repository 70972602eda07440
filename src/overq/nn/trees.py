"""Nested tuples, lists and mappings that hold tensors: taken apart, moved, put together again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from overq.errors import CalibrationError


@dataclass(frozen=True)
class Place:
    """Where a tensor was."""

    index: int


def flatten(value: Any) -> tuple[list[torch.Tensor], Any]:
    """The tensors in it (arrays become tensors), and the same structure with a place for each; mappings become plain dicts."""
    found: list[torch.Tensor] = []
    return found, _places(value, found)


def filled(structure: Any, tensors: list[torch.Tensor]) -> Any:
    """The inverse of `flatten`."""
    return tensors[structure.index] if isinstance(structure, Place) else _rebuilt(structure, lambda item: filled(item, tensors))


def home(model: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """The device of the model's first parameter, and its floating dtype if all parameters share one; None where it has none."""
    parameters = list(model.parameters())
    dtypes = {p.dtype for p in parameters if p.is_floating_point()}
    return (parameters[0].device if parameters else None), (dtypes.pop() if len(dtypes) == 1 else None)


def moved(batch: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """The batch with its tensors on `device` and its floating tensors in `dtype`."""
    tensors, structure = flatten(batch)
    return filled(structure, [t.to(device=device, dtype=dtype if t.is_floating_point() else None) for t in tensors])


def _places(value: Any, found: list[torch.Tensor]) -> Any:
    if isinstance(value, np.ndarray):
        value = _tensor(value)
    if isinstance(value, torch.Tensor):
        found.append(value)
        return Place(len(found) - 1)
    return _rebuilt(value, lambda item: _places(item, found))


def _rebuilt(value: Any, each: Callable[[Any], Any]) -> Any:
    """Containers rebuilt with `each` of their items; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: each(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(each, value))
    if isinstance(value, (tuple, list)):
        return (tuple if isinstance(value, tuple) else list)(map(each, value))
    return value


def _tensor(array: np.ndarray) -> torch.Tensor:
    """The array's numbers, sharing no memory with it."""
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except TypeError:
        raise CalibrationError(f"samples must be arrays of numbers, not {array.dtype} {list(array.shape)}") from None
