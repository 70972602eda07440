"""How a batch meets a model: which of its items are passed, and what is refused because it could be meant in two ways.

tensor, array   model(batch)
mapping         model(**batch), of any class
tuple, list     as many items as `forward` requires: of (images, labels) the images, (ids, mask) both
anything else   model(batch)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from overq.errors import CalibrationError

Forward = Callable[[nn.Module, Any], Any]
OWN = "give a mapping of arguments as the batch, or a `forward` of your own"


@dataclass(frozen=True)
class Parameters:
    """What a model's forward takes: names it requires, names that may hold a tensor too, and whether it takes any number.

    A parameter whose default is a number, a flag or a text is a switch: no item of a batch is meant for it.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    names: tuple[str, ...]
    keyword_only: tuple[str, ...]
    any_items: bool
    any_keywords: bool


def run(model: nn.Module, batch: Any) -> Any:
    """The model's answer to one batch. Raises CalibrationError for a batch that does not fit, or would fit in two ways."""
    args, keywords = arguments(model, batch)
    return model(*args, **keywords)


def arguments(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What of the batch is passed: (by position, by name)."""
    if isinstance(batch, Mapping):
        return (), _by_name(parameters(model), batch)
    if isinstance(batch, (tuple, list)):
        return _by_position(parameters(model), tuple(batch)), {}
    takes = parameters(model)
    if len(takes.required) > 1 or takes.keyword_only:
        wanted = ", ".join(takes.required + takes.keyword_only)
        raise CalibrationError(f"a batch of one item, but the model's forward requires {wanted}: give tuples, as in [(first, second)]")
    return (batch,), {}


def parameters(model: nn.Module) -> Parameters:
    """Of the forward of the model itself, behind what torch.compile and DataParallel wrap around it."""
    while (inner := _wrapped(model)) is not None:
        model = inner
    try:
        given = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # compiled code tells nothing of its arguments
        return Parameters((), (), (), (), True, True)
    positional = [p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return Parameters(
        required=tuple(p.name for p in positional if p.default is p.empty),
        optional=tuple(p.name for p in positional if p.default is not p.empty and not isinstance(p.default, (bool, int, float, str))),
        names=tuple(p.name for p in given if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)),
        keyword_only=tuple(p.name for p in given if p.kind == p.KEYWORD_ONLY and p.default is p.empty),
        any_items=any(p.kind == p.VAR_POSITIONAL for p in given),
        any_keywords=any(p.kind == p.VAR_KEYWORD for p in given),
    )


def _wrapped(model: nn.Module) -> nn.Module | None:
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return model.module
    return getattr(model, "_orig_mod", None)


def _by_name(takes: Parameters, batch: Mapping[Any, Any]) -> dict[str, Any]:
    if odd := [key for key in batch if not isinstance(key, str)]:
        raise CalibrationError(f"a batch that is a mapping is passed by keyword, but its key {odd[0]!r} is no name: {OWN}")
    unknown = [key for key in batch if key not in takes.names and not takes.any_keywords]
    if unknown:
        takes_only = ", ".join(takes.names) or "none"
        raise CalibrationError(f"the model's forward takes no {unknown[0]!r}; it takes {takes_only}: leave it out of the batch")
    missing = [name for name in (*takes.required, *takes.keyword_only) if name not in batch]
    if missing:
        raise CalibrationError(f"the model's forward requires {missing[0]!r}, and the batch has only {', '.join(batch) or 'nothing'}")
    return dict(batch)


def _by_position(takes: Parameters, batch: tuple[Any, ...]) -> tuple[Any, ...]:
    count, wanted = len(batch), len(takes.required)
    what = f"a batch of {count} item{'s' * (count != 1)}"
    if takes.keyword_only:
        raise CalibrationError(f"{what}, but the model's forward requires {takes.keyword_only[0]!r} by name: {OWN}")
    if count < max(wanted, 1):
        raise CalibrationError(f"{what}, but the model's forward requires {wanted}: {', '.join(takes.required)}")
    if count > 1 and wanted > 1 and isinstance(batch[0], Mapping):
        raise CalibrationError(f"{what}, the first a mapping, but the model's forward requires {wanted}: {OWN}")
    if count == 1 or (wanted and count == wanted):
        return batch
    if takes.any_items or takes.optional or not wanted:
        more = "any number of them" if takes.any_items else f"also {', '.join(takes.optional)}" if takes.optional else "nothing"
        raise CalibrationError(
            f"{what} is ambiguous: the model's forward requires {', '.join(takes.required) or 'none'} and takes {more}; "
            f"the rest may be meant for it or be labels: {OWN}"
        )
    return batch[:wanted]


def left_out(model: nn.Module, batch: Any) -> int:
    """How many items of a tuple or list batch are not passed: labels, weights, names."""
    return len(batch) - len(arguments(model, batch)[0]) if isinstance(batch, (tuple, list)) else 0
