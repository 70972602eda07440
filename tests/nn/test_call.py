"""What of a batch is passed to a model: what is meant, or nothing."""

from __future__ import annotations

import functools
from collections import UserDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from overq.errors import CalibrationError
from overq.nn import observe
from overq.nn.call import arguments
from overq.nn.trees import flatten

X, MASK, LABELS = torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([0, 1])


def model(forward: Any) -> nn.Module:
    """A module with that forward, self left out of its signature."""
    return type("Model", (nn.Module,), {"forward": staticmethod(forward)})()


def one(x): ...
def two(ids, mask): ...
def with_mask(ids, mask=None): ...
def with_switch(x, features=False, scale=1.0, mode="train"): ...
def all_optional(pixel_values=None, labels=None): ...
def any_items(*items): ...
def forwarding(*args, **kwargs): ...
def named_only(x, *, mask): ...
def sequences(x, more=()): ...


PASSED: list[tuple[Any, Any, tuple[Any, ...], dict[str, Any]]] = [
    (one, X, (X,), {}),
    (one, (X, LABELS), (X,), {}),
    (one, [X, LABELS, "name"], (X,), {}),
    (one, [X], (X,), {}),
    (one, {"x": X}, (), {"x": X}),
    (one, UserDict(x=X), (), {"x": X}),
    (one, ((X, MASK), LABELS), ((X, MASK),), {}),
    (one, ({"a": X}, LABELS), ({"a": X},), {}),
    (two, (X, MASK), (X, MASK), {}),
    (two, [X, MASK, LABELS], (X, MASK), {}),
    (two, namedtuple("Batch", "ids mask")(X, MASK), (X, MASK), {}),
    (two, {"mask": MASK, "ids": X}, (), {"mask": MASK, "ids": X}),
    (with_mask, X, (X,), {}),
    (with_mask, (X,), (X,), {}),
    (with_mask, {"ids": X}, (), {"ids": X}),
    (with_mask, {"ids": X, "mask": MASK}, (), {"ids": X, "mask": MASK}),
    (with_switch, (X, LABELS), (X,), {}),  # no item of a batch is meant for a switch
    (all_optional, X, (X,), {}),
    (all_optional, (X,), (X,), {}),
    (all_optional, {"labels": LABELS}, (), {"labels": LABELS}),
    (any_items, (X,), (X,), {}),
    (forwarding, {"anything": X}, (), {"anything": X}),
    (named_only, {"x": X, "mask": MASK}, (), {"x": X, "mask": MASK}),
]

REFUSED: list[tuple[Any, Any, str]] = [
    (two, (X,), r"^a batch of 1 item, but the model's forward requires 2: ids, mask$"),
    (two, X, r"^a batch of one item, but the model's forward requires ids, mask: give tuples, as in \[\(first, second\)\]$"),
    (named_only, X, r"^a batch of one item, but the model's forward requires x, mask: "),
    (two, (), r"^a batch of 0 items, but the model's forward requires 2: ids, mask$"),
    (one, (), r"^a batch of 0 items, but the model's forward requires 1: x$"),
    (with_mask, (X, MASK), r"^a batch of 2 items is ambiguous: the model's forward requires ids and takes also mask; .* give a mapping"),
    (sequences, (X, MASK), r"^a batch of 2 items is ambiguous: the model's forward requires x and takes also more;"),
    (
        all_optional,
        (X, LABELS),
        r"ambiguous: the model's forward requires none and takes also pixel_values, labels;",
    ),
    (any_items, (X, LABELS), r"ambiguous: the model's forward requires none and takes any number of them;"),
    (forwarding, (X, LABELS), r"ambiguous: the model's forward requires none and takes any number of them;"),
    (named_only, (X, MASK), r"^a batch of 2 items, but the model's forward requires 'mask' by name:"),
    (two, ({"ids": X, "mask": MASK}, LABELS), r"^a batch of 2 items, the first a mapping, but the model's forward requires 2:"),
    (one, {"x": X, "labels": LABELS}, r"^the model's forward takes no 'labels'; it takes x: leave it out of the batch$"),
    (two, {"ids": X}, r"^the model's forward requires 'mask', and the batch has only ids$"),
    (one, {}, r"^the model's forward requires 'x', and the batch has only nothing$"),
    (one, {0: X}, r"^a batch that is a mapping is passed by keyword, but its key 0 is no name:"),
]


@pytest.mark.parametrize(("forward", "batch", "args", "keywords"), PASSED)
def test_what_is_passed(forward: Any, batch: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    got = arguments(model(forward), batch)
    (tensors, structure), (wanted, alike) = flatten(got), flatten((args, keywords))
    assert structure == alike
    assert all(a is b for a, b in zip(tensors, wanted, strict=True))


@pytest.mark.parametrize(("forward", "batch", "message"), REFUSED)
def test_what_is_refused(forward: Any, batch: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message) as caught:
        arguments(model(forward), batch)
    assert "\n" not in str(caught.value)


class Ids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(ids) * mask[..., None])


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_wrappers_are_looked_through(wrap: Any) -> None:
    ids, mask = torch.randint(0, 9, (8, 5)), torch.ones(8, 5)
    wanted = arguments(Ids(), (ids, mask, LABELS))[0]
    assert len(arguments(wrap(Ids()), (ids, mask, LABELS))[0]) == len(wanted) == 2


def test_pairs_of_ids_and_masks_calibrate() -> None:
    net, ids, mask = Ids(), torch.randint(0, 9, (8, 5)), torch.zeros(8, 5)
    assert observe(net, [(ids, mask)]).layers["head"].largest == 0, "the mask reached the model"
    assert observe(net, [[ids, mask + 1]]).layers["head"].largest > 0
    assert observe(net, {"ids": ids.numpy(), "mask": np.ones((8, 5))}).layers["head"].largest > 0


def test_a_patched_forward_counts() -> None:
    net = nn.Linear(3, 2)
    plain = net.forward
    net.forward = functools.wraps(plain)(lambda x, bias: plain(x) + bias)  # type: ignore[method-assign]
    del net.forward.__wrapped__
    assert len(arguments(net, (X, MASK))[0]) == 2
