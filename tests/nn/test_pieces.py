"""Observed in pieces by several processes, a model's layers are known to the last bit as if one had run all samples."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_samples import ALL, IMAGES, Net, bits
from torch import nn

import overq
from overq.errors import CalibrationError, InputError
from overq.nn import Observations, observe
from overq.nn.pieces import Piece, cut, misplaced, observe_in_pieces, observe_piece, piece_of, piece_to_bytes


class Experts(nn.Module):
    """Each image goes to one of two layers: how much a layer sees, no first look tells."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.one, self.two, self.head = nn.Linear(5, 1), nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.mean((2, 3))
        first = self.gate(x)[:, 0] > 0.1
        out = x.new_zeros(len(x), 6)
        out[first], out[~first] = self.one(x[first]), self.two(x[~first])
        return self.head(out)


class Multiplies(nn.Module):
    """Products as functions: one with a parameter, one of two activations."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.head = nn.Parameter(torch.randn(5, 5)), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2).transpose(1, 2) @ self.weight
        return self.head((x @ x.transpose(1, 2)).mean(1))


class Mixes(nn.Module):
    """Compares the samples of a batch, so that batches run as they come."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x.mean((2, 3)) - x.mean((0, 2, 3)))


def all_of(seen: Observations) -> dict[str, Any]:
    assert seen.chosen is not None
    assert seen.stream is not None
    kept = [(unit.rows, [t.numpy().tobytes() for t in unit.tensors]) for unit in seen.chosen.units]
    facts = (seen.readings, seen.count, seen.tensors, seen.sites, seen.unsure, seen.multiplying, seen.products, seen.other)
    order = (list(seen.layers), list(seen.factors))
    stream = (seen.stream.together, seen.stream.peak, seen.stream.size, seen.stream.facts, seen.stream.hint)
    return {**bits(seen), "factors": bits(replace(seen, layers=seen.factors)), "kept": kept, "facts": facts, "more": (order, stream)}


def observed(model: nn.Module, samples: Any, borders: list[int], **options: Any) -> Observations:
    """As separate processes would: every piece through a file, those that began at a wrong place once more."""
    pieces: list[Piece] = [observe_piece(model, samples, a, b, **options) for a, b in pairwise([0, *borders, None])]  # type: ignore[arg-type]
    for number, before in misplaced(pieces).items():
        pieces[number] = observe_piece(model, samples, pieces[number].first, pieces[number].last, before=before, **options)
    assert not misplaced(pieces)
    options.pop("products", None)
    return observe_in_pieces(model, samples, [piece_of(piece_to_bytes(piece)) for piece in pieces], **options)


@given(st.sampled_from([Net, Experts, Multiplies, Mixes]), st.integers(2, 150), st.sets(st.integers(1, 160), max_size=5), st.booleans())
@settings(max_examples=15, deadline=None)
def test_any_cut_of_the_samples_gives_the_same_observation(kind: Any, count: int, borders: set[int], products: bool) -> None:
    model, samples = kind(), IMAGES[:count].split(40)
    wanted = observe(model, samples, seed=3, products=products)
    assert all_of(observed(model, samples, sorted(borders), seed=3, products=products)) == all_of(wanted)


def test_large_samples_are_thinned_alike() -> None:
    """More vectors than a layer's sample holds, so that which stay depends on every piece's random keys."""
    torch.manual_seed(0)
    model, samples = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), torch.randn(96, 2, 60, 60)
    wanted = observe(model, samples)
    assert wanted.layers["2"].keys.size < wanted.layers["2"].values / 4
    assert all_of(observed(model, samples, [32, 64])) == all_of(wanted)


def test_a_mask_and_samples_of_several_lengths() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 50))
    samples = [torch.randint(1, 50, (rows, length)) for rows, length in ((5, 7), (3, 7), (9, 4), (40, 7), (1, 7))]
    for batch in samples:
        batch[:, -2:] = 0
    options = {"mask": lambda batch: batch != 0}
    assert all_of(observed(model, samples, [6, 20, 30], **options)) == all_of(observe(model, samples, **options))


def test_what_quantize_makes_of_them_is_the_same() -> None:
    model, x = Net(), IMAGES[:100]
    wanted = overq.quantize(model, observe(model, x), ALL)
    got = overq.quantize(model, observed(model, x, [32, 64]), ALL)
    for (name, a), b in zip(wanted.state_dict().items(), got.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert overq.summary(wanted) == overq.summary(got)


def test_pieces_that_do_not_follow_each_other_are_refused() -> None:
    model, x = Net(), IMAGES
    one, two, three = (observe_piece(model, x, a, b) for a, b in ((0, 32), (32, 96), (96, None)))
    for pieces in ([], [one], [one, three], [two, three], [one, replace(two, before={}), three]):
        with pytest.raises(CalibrationError, match="^the pieces of an observation must follow each other"):
            observe_in_pieces(model, x, pieces)
    assert misplaced([one, replace(two, before={}), three]).keys() == {1}


def test_a_model_that_calls_other_functions_for_other_samples_is_refused() -> None:
    class Sometimes(Multiplies):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.abs().amax() < 1e3 else self.head(x.flatten(2).mean(1))

    model, samples = Sometimes(), torch.cat([IMAGES[:64], 1e4 * IMAGES[:64]])
    with pytest.raises(CalibrationError, match="^the model calls other functions for other samples: it cannot be observed in pieces$"):
        observed(model, samples, [64])


def test_a_damaged_file_is_refused_in_one_line() -> None:
    content = piece_to_bytes(observe_piece(Net(), IMAGES[:40]))
    for damaged in (content[:-9], b"", content[:60], content.replace(b"drawn", b"drown")):
        with pytest.raises(InputError, match="^not a piece of an observation: [^\n]*$"):
            piece_of(damaged)


def test_cuts_cover_all_samples_once() -> None:
    assert cut(100, 4) == [(0, 25), (25, 50), (50, 75), (75, None)]
    assert cut(3, 8) == [(0, 1), (1, 2), (2, None)]
    assert cut(0, 2) == [(0, None)]
