"""Shape arithmetic on lists of ints, and single ints, instead of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from overq.exchange.operators import Builder, plain
from overq.exchange.places import as_list
from overq.exchange.spec import Built, Spec


def _picked(sizes: Any, index: Any) -> Any:
    return sizes[index] if isinstance(index, int) else [sizes[i] for i in index]


def _cut(sizes: list[Any], start: Any, end: Any, axes: Any = None, steps: Any = None) -> list[Any]:
    return sizes[slice(as_list(start)[0], as_list(end)[0], 1 if steps is None else as_list(steps)[0])]


def _element(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of single numbers and lists, which a single number or a list of one joins."""

    def run(*values: Any) -> Any:
        if not any(isinstance(v, list) for v in values):
            return function(*values)
        count = max(len(v) for v in values if isinstance(v, list))
        columns = ((v * count if len(v) == 1 else v) if isinstance(v, list) else [v] * count for v in values)
        return [function(*row) for row in zip(*columns, strict=True)]

    return run


def _filled(spec: Spec) -> Built:
    value = spec.get("value")
    fill = 0 if value is None else int(value)
    return lambda shape: [fill] * shape[0]


def _ratio(spec: Spec) -> Built:
    """Whole for extents, not so for what was cast to real numbers."""
    return _element((lambda a, b: a / b) if spec.get("real") else lambda a, b: a // b)


# Spec -> function
EXTENTS: dict[str, Builder] = {
    "Gather": plain(_picked),
    "Concat": plain(lambda *parts: [size for part in parts for size in (part if isinstance(part, list) else [part])]),
    "Unsqueeze": plain(lambda x, *_: x if isinstance(x, list) else [x]),
    "Squeeze": plain(lambda x, *_: x[0] if isinstance(x, list) and len(x) == 1 else x),
    "Slice": plain(_cut),
    "Cast": plain(lambda x: x), "Reshape": plain(lambda x, *_: x if isinstance(x, list) else [x]), "Identity": plain(lambda x: x),
    "Add": plain(_element(lambda a, b: a + b)), "Sub": plain(_element(lambda a, b: a - b)), "Mul": plain(_element(lambda a, b: a * b)),
    "ConstantOfShape": _filled, "Div": _ratio, "Sqrt": plain(_element(lambda a: a**0.5)),
    "Mod": plain(_element(lambda a, b: a % b)), "Not": plain(_element(lambda a: not a)),
    "Equal": plain(_element(lambda a, b: a == b)), "Where": plain(_element(lambda test, a, b: a if test else b)),
    "Max": plain(_element(max)), "Min": plain(_element(min)), "ReduceProd": plain(lambda x, *_: math.prod(x)),
}  # fmt: skip
