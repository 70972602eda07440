"""Observing in pieces: several processes run a part of the samples each, and what they saw is put together to the last bit.

A piece is what one process saw of the runs whose first sample lies between two positions. Each layer's sample is drawn with a random
stream of its own, so a piece begins where that stream stands after all earlier runs. How far that is, one sample of the model's tells;
where it told wrong (an expert gets other numbers of tokens each time), the pieces themselves tell, and are observed again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from itertools import chain
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as arrays_of
from safetensors.numpy import save as to_file
from torch import nn

from overq.calib import Observed
from overq.errors import CalibrationError, InputError
from overq.nn.call import Forward, run
from overq.nn.chosen import Choosing
from overq.nn.compute import Count
from overq.nn.observation import Observations, check_weights, finished, hinted, masked, watching
from overq.nn.padding import Keep, Mask
from overq.nn.replica import ready, unwritten
from overq.nn.samples import Part, Stream, fresh, opened
from overq.nn.sites import Site
from overq.nn.watch import Reading, Watch


@dataclass(frozen=True)
class Piece:
    """What the layers saw in the runs whose first sample's position is from `first` to below `last` (None: to the end).

    runs    how many there were
    before  layer -> vectors of its random stream that earlier runs were taken to have drawn
    drawn   layer -> vectors drawn of it here
    seen    as of these runs alone; `count` in the piece that begins at 0
    """

    first: int
    last: int | None
    runs: int
    before: dict[str, int]
    drawn: dict[str, int]
    seen: Observations


def observe_piece(
    model: nn.Module,
    samples: Any,
    first: int = 0,
    last: int | None = None,
    *,
    forward: Forward = run,
    mask: Mask | None = None,
    seed: int = 0,
    products: bool = False,
    before: dict[str, int] | None = None,
) -> Piece:
    """One piece of what `observe` sees of all samples, with its arguments. before: where that is known, of `misplaced`."""
    check_weights(model)
    original, model = model, ready(model, borrow=True)
    with torch.no_grad(), unwritten(original):
        stream = opened(model, samples, forward)
        if first and stream.count is None:
            stream.count = Count()  # of the first run, which is another piece's
        seen = Observations(products=products)
        watch = Watch(seen.layers, seen.readings, seed, lambda: Observed(trail=[]))
        mine = _between(masked(model, stream, mask), first, last)
        own, runs = next(mine, None), 0
        if own is not None:
            watch.before = _guessed(model, original, stream, *own[:2], seed, products) if before is None and first else before or {}
            with watching(model, original, seen, watch, stream) as look:
                for _, part, keep in chain([own], mine):
                    look(part, keep)
                    runs += 1
    seen = replace(seen, count=None if first else stream.count)
    return Piece(first, last, runs, watch.before, watch.drawn, seen)


def _between(runs: Iterable[tuple[Part, Keep | None]], first: int, last: int | None) -> Iterator[tuple[int, Part, Keep | None]]:
    """(position of the first sample, part, its padding) of the runs that begin there."""
    position = 0
    for part, keep in runs:
        if last is not None and position >= last:
            return
        if position >= first:
            yield position, part, keep
        position += part.rows or 1


def _guessed(model: nn.Module, original: nn.Module, stream: Stream, position: int, part: Part, seed: int, products: bool) -> dict[str, int]:
    """How many vectors of each layer `position` samples draw, if each draws as many as the first of this part."""
    few = fresh(part.cut(0, 1)) if stream.together and part.rows else part
    seen, trial = Observations(products=products), replace(stream, count=stream.count or Count())
    watch = Watch(seen.layers, seen.readings, seed)
    with watching(model, original, seen, watch, trial) as look:
        look(few, None)
    return {name: drawn * position // (few.rows or 1) for name, drawn in watch.drawn.items()}


def cut(count: int, pieces: int) -> list[tuple[int, int | None]]:
    """(first, last) of that many pieces of `count` samples, or of fewer where samples are few."""
    firsts = sorted({i * count // pieces for i in range(pieces)})
    return list(zip(firsts, [*firsts[1:], None], strict=True))


def misplaced(pieces: Sequence[Piece]) -> dict[int, dict[str, int]]:
    """Number of a piece -> the `before` with which it has to be observed again. pieces: all, in order."""
    drawn: dict[str, int] = {}
    wrong = {}
    for number, piece in enumerate(pieces):
        if any(piece.before.get(name, 0) != drawn.get(name, 0) for name in piece.drawn):
            wrong[number] = dict(drawn)
        for name, count in piece.drawn.items():
            drawn[name] = drawn.get(name, 0) + count
    return wrong


def observe_in_pieces(
    model: nn.Module, samples: Any, pieces: Sequence[Piece], *, forward: Forward = run, mask: Mask | None = None, seed: int = 0
) -> Observations:
    """What `observe` gives for all samples, of pieces that cover them, in order; the model runs on the first three samples only.

    Raises CalibrationError where the pieces do not follow each other, or the model runs other functions for other samples.
    """
    ends = [piece.first for piece in pieces[1:]] + [None]
    if not pieces or pieces[0].first or [piece.last for piece in pieces] != ends or misplaced(pieces):
        raise CalibrationError("the pieces of an observation must follow each other from the first sample to the last")
    check_weights(model)
    original, model = model, ready(model, borrow=True)
    with torch.no_grad(), unwritten(original):
        stream = opened(model, samples, forward)
        choosing = Choosing(stream, seed)
        for part, keep in masked(model, stream, mask):
            choosing.add(part, keep)
            hinted(model, stream, part, mask)
    stream.count = stream.count or pieces[0].seen.count
    return finished(_together([piece.seen for piece in pieces if piece.runs]), stream, choosing)


def _together(parts: Sequence[Observations]) -> Observations:
    """All fields that a piece has."""
    first = parts[0]
    for part in parts[1:]:
        if (part.sites, part.unsure, part.multiplying) != (first.sites, first.unsure, first.multiplying):
            raise CalibrationError("the model calls other functions for other samples: it cannot be observed in pieces")
    layers, factors = (_merged([part.layers for part in parts]), _merged([part.factors for part in parts]))
    readings = {name: _reading([part.readings[name] for part in parts if name in part.readings]) for name in layers}
    other: dict[str, str] = reduce(lambda a, b: b | a, (part.other for part in parts))
    return replace(first, layers=layers, factors=factors, readings=readings, other=other)


def _merged(parts: Sequence[dict[str, Observed]]) -> dict[str, Observed]:
    found = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        mine = [part[name] for part in parts if name in part]
        if len({observed.sample.shape[1] for observed in mine if observed.keys.size}) > 1:
            raise CalibrationError(f"{name!r} reads vectors of other lengths in other samples: it cannot be observed in pieces")
        found[name] = reduce(Observed.merge, mine, Observed())
    return found


def _reading(parts: Sequence[Reading]) -> Reading:
    calls = max(len(part.largest) for part in parts)
    return Reading(
        [max(part.largest[call] for part in parts if call < len(part.largest)) for call in range(calls)],
        list(dict.fromkeys(name for part in parts for name in part.beside)),
        list(dict.fromkeys(name for part in parts for name in part.alike)),
        sum(part.padded for part in parts),
        sum(part.untold for part in parts),
    )


ARRAYS = ("histogram", "sample", "keys")
PLAIN = ("low", "high", "values", "limit", "batches", "moving", "trail")


def piece_to_bytes(piece: Piece) -> bytes:
    """A safetensors file: arrays, and all else as JSON in its metadata."""
    seen, arrays, plain = piece.seen, dict[str, np.ndarray](), dict[str, Any]()
    for kind, records in (("layers", seen.layers), ("factors", seen.factors)):
        arrays |= {f"{kind}/{name}/{what}": getattr(o, what) for name, o in records.items() for what in ARRAYS}
        plain[kind] = {name: {what: getattr(o, what) for what in PLAIN} for name, o in records.items()}
    rest = {
        **{name: getattr(piece, name) for name in ("first", "last", "runs", "before", "drawn")},
        **{name: getattr(seen, name) for name in ("unsure", "multiplying", "products", "other")},
        **plain,
        "readings": {name: asdict(reading) for name, reading in seen.readings.items()},
        "sites": {name: asdict(site) for name, site in seen.sites.items()},
        "count": seen.count and {"totals": list(seen.count.totals.items()), "peak": seen.count.peak, "unknown": sorted(seen.count.unknown)},
    }
    return to_file(arrays, {"piece": json.dumps(rest)})


def piece_of(content: bytes) -> Piece:
    """The inverse of `piece_to_bytes`; InputError where it is no such file."""
    try:
        return _read(arrays_of(content), _metadata(content))
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"not a piece of an observation: {error}") from error


def _metadata(content: bytes) -> dict[str, Any]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found: dict[str, Any] = json.loads(header["__metadata__"]["piece"])
    return found


def _read(arrays: dict[str, np.ndarray], rest: dict[str, Any]) -> Piece:
    def records(kind: str) -> Iterator[tuple[str, Observed]]:
        for name, plain in rest[kind].items():
            pairs = {"moving": tuple(plain["moving"]), "trail": [tuple(pair) for pair in plain["trail"]]}
            yield name, Observed(**{**plain, **pairs, **{what: arrays[f"{kind}/{name}/{what}"] for what in ARRAYS}})

    count = rest["count"] and Count(
        {tuple(key): macs for key, macs in rest["count"]["totals"]}, rest["count"]["peak"], set(rest["count"]["unknown"])
    )
    seen = Observations(
        layers=dict(records("layers")),
        factors=dict(records("factors")),
        readings={name: Reading(**reading) for name, reading in rest["readings"].items()},
        sites={name: Site(**site) for name, site in rest["sites"].items()},
        count=count,
        **{name: rest[name] for name in ("unsure", "multiplying", "products", "other")},
    )
    return Piece(rest["first"], rest["last"], rest["runs"], rest["before"], rest["drawn"], seen)
