"""Some of a stream's samples, kept for runs to come: at most so many, the same ones however the stream came."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from overq.nn.padding import Keep, followed, known
from overq.nn.samples import Part, Stream, fresh, joined
from overq.nn.trees import Place, home, moved

ENOUGH = 64  # samples, for bias correction (see docs/calibration.md)
ROOM = 1 << 25  # values that the kept samples may have
_KEYS = 0x5A3  # of the choice: a random stream of its own beside the layers'


@dataclass(frozen=True)
class Chosen:
    """Samples in `units`, each of which runs at once; every unit's structure is (batch, mask of real positions or None).

    rows, of  samples kept and samples seen
    known     what was found on them already
    """

    units: tuple[Part, ...]
    stream: Stream
    rows: int
    of: int
    known: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "known": {}}  # what was found belongs to a model of this process

    @contextmanager
    def running(self, model: nn.Module) -> Iterator[Any]:
        """Within the block, a function from a unit to the model's answer; layers know what is padded."""
        device, dtype = home(model)

        def run(unit: Part) -> Any:
            batch, real = unit.batch
            with torch.no_grad(), known(None if real is None else Keep(real)):
                return self.stream.forward(model, moved(batch, device, dtype))

        with followed(model):
            yield run


def one_input(chosen: Chosen | None) -> torch.Tensor | None:
    """float [1, ...]: the first of them, where a sample is one tensor that the model takes by position."""
    if chosen is None or not chosen.units or not chosen.stream.bound:
        return None
    unit = chosen.units[0]
    (args, named), _ = (unit if unit.rows is None else unit.cut(0, 1)).batch
    alone = len(args) == 1 and not named and isinstance(args[0], torch.Tensor) and args[0].is_floating_point()
    return args[0].detach().clone() if alone else None


class Choosing:
    """Chooses while a stream goes by: the samples with the smallest random keys, which depend on the seed and their positions only.

    Of batches that run as they come, the first ones until there are enough.
    """

    def __init__(self, stream: Stream, seed: int) -> None:
        self.stream, self.rng = stream, np.random.default_rng([seed, _KEYS])
        self.kept: list[tuple[float, int, Part]] = []
        self.rows = self.seen = 0

    def add(self, part: Part, keep: Keep | None) -> None:
        tensors, structure = part.tensors, (part.structure, cast(Any, None))
        if keep is not None:
            tensors, structure = [*tensors, keep.real], (part.structure, Place(len(tensors)))
        whole, rows = Part(tensors, structure, part.rows), part.rows or 1
        if not self.stream.together:
            if self.rows < ENOUGH:
                self.kept.append((0.0, self.seen, whole))
                self.rows += rows
            self.seen += rows
            return
        values = max(1, sum(t[0].numel() for t in tensors if t.ndim))
        room = max(1, min(ENOUGH, ROOM // values))
        for i, key in enumerate(self.rng.random(rows)):
            if len(self.kept) < room or key < max(self.kept)[0]:
                self.kept.append((key, self.seen + i, fresh(whole.cut(i, i + 1))))
                self.kept = sorted(self.kept)[:room] if len(self.kept) > room else self.kept
        self.seen += rows
        self.rows = len(self.kept)

    def done(self) -> Chosen:
        parts = [part for _, _, part in sorted(self.kept, key=lambda entry: entry[1])]
        units = joined(parts, lambda part: self.stream.rows(part, ENOUGH)) if self.stream.together else iter(parts)
        self.stream.parts = iter(())  # all went by; a copy of what is kept holds no generator
        return Chosen(tuple(units), self.stream, self.rows, self.seen)
