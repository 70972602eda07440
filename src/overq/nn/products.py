"""Products of matrices that a model spells as functions: `F.linear`, `@`, `bmm`, `einsum`, `scaled_dot_product_attention` and their like.

One reading serves calibration and the quantized model: which arguments of a call are its factors, and along which of its axes each factor
is summed. Who calls is known by the innermost running module, and which of its calls it is by counting those of each function.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from overq.nn.attention import attention

Place = tuple[int, str]  # of an argument: its position, and its keyword


@dataclass(frozen=True)
class Product:
    """One call that multiplies matrices.

    name           "linear", "matmul", "einsum" or "attention"
    first, second  the factors' places; of attention the query's and the key's
    dims           (of first, of second): the axis that is summed over, counted from the end
    """

    name: str
    first: Place
    second: Place
    dims: tuple[int, int]


_MATMUL = Product("matmul", (0, "input"), (1, "other"), (-1, -2))
_PRODUCTS: dict[str, Product] = {
    "linear": Product("linear", (0, "input"), (1, "weight"), (-1, -1)),
    **dict.fromkeys(("matmul", "__matmul__"), _MATMUL),
    "__rmatmul__": replace(_MATMUL, first=(1, "other"), second=(0, "input")),
    **dict.fromkeys(("bmm", "mm"), replace(_MATMUL, second=(1, "mat2"))),
    "addmm": replace(_MATMUL, first=(1, "mat1"), second=(2, "mat2")),
    "baddbmm": replace(_MATMUL, first=(1, "batch1"), second=(2, "batch2")),
    **dict.fromkeys(("_grouped_mm", "grouped_mm"), replace(_MATMUL, first=(0, "mat_a"), second=(1, "mat_b"))),
    "scaled_dot_product_attention": Product("attention", (0, "query"), (1, "key"), (-1, -1)),
}
VALUE: Place = (2, "value")  # of attention


class _Running(threading.local):
    """In each thread: the innermost running module's `sites.Calls`; None outside of one and inside a quantized layer."""

    calls: Any = None


RUNNING = _Running()


def product_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Product | None:
    """What a call multiplies; None where it is no product of two matrices that is known here."""
    name = getattr(func, "__name__", "")
    if name == "einsum":
        return _einsum(args)
    found = _PRODUCTS.get(name)
    if found is None or not all(isinstance(argument(place, args, kwargs), Tensor) for place in (found.first, found.second)):
        return None
    if found.dims[1] == -2 and argument(found.second, args, kwargs).ndim == 1:
        return replace(found, dims=(-1, -1))
    return found


def _einsum(args: tuple[Any, ...]) -> Product | None:
    """Of two factors with one label that both have and the result lacks; an ellipsis stands in front."""
    if len(args) != 3 or not isinstance(args[0], str) or not all(isinstance(a, Tensor) for a in args[1:]):
        return None
    left, arrow, out = args[0].replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != 2 or any("..." in term[1:] for term in terms):
        return None
    one, two = (term.removeprefix("...") for term in terms)
    summed = [label for label in one if label in two and label not in out]
    if len(summed) != 1 or any(term.count(summed[0]) != 1 for term in (one, two)):
        return None
    label = summed[0]
    return Product("einsum", (1, ""), (2, ""), (one.index(label) - len(one), two.index(label) - len(two)))


def argument(place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[place[0]] if place[0] < len(args) else kwargs.get(place[1])


def replaced(args: tuple[Any, ...], kwargs: dict[str, Any], changes: dict[Place, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with others at some places."""
    listed, named = list(args), dict(kwargs)
    for (position, keyword), value in changes.items():
        if position < len(listed):
            listed[position] = value
        else:
            named[keyword] = value
    return tuple(listed), named


def stored_dim(x: Tensor, summed: int) -> int:
    """Along which axis a second factor of the model's own making lies in vectors: the one of its last two whose values are neighbours in
    memory, as a key or value of one token is stored; the summed one where that does not tell."""
    other = -1 if summed == -2 else -2
    if x.ndim < 2 or x.shape[other] == 1 or summed not in (-1, -2) or x.stride(summed) == 1 or x.stride(other) != 1:
        return summed
    return other


def multiplied(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    product: Product,
    seen: Callable[[str, Tensor], Tensor],
) -> Any:
    """The call with each factor as `seen(role, factor)` gives it: roles "first" and "second"; of attention "query", "key", "weights" (the
    probabilities) and "value"."""
    if product.name == "attention":
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
        named = dict(zip(names, args, strict=False)) | kwargs
        for role in ("query", "key", "value"):
            named[role] = seen(role, named[role])
        return attention(**named, weights=lambda weights: seen("weights", weights))
    places = {"first": product.first, "second": product.second}
    changes = {place: seen(role, argument(place, args, kwargs)) for role, place in places.items()}
    args, kwargs = replaced(args, kwargs, changes)
    return func(*args, **kwargs)
