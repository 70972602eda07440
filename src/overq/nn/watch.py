"""What is noted while a model runs on calibration samples: each layer's input, who reads the same, and its padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from overq.calib import Observed
from overq.errors import CalibrationError
from overq.nn.layers import FloatLayer, channel_dim, input_groups
from overq.nn.padding import current
from overq.nn.samples import Part

AT_ONCE = 1 << 24  # values that are counted together on a device


@dataclass
class Reading:
    """How one layer met its input.

    largest  greatest magnitude of its input, by call: one entry for each call within a run of the model
    beside   layers that read the very same values
    alike    those of them that also cut them into the same channel vectors
    padded   positions left out, and whole those whose padding could not be told, over all samples
    """

    largest: list[float] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    alike: list[str] = field(default_factory=list)
    padded: int = 0
    untold: int = 0


Cut = tuple[
    int, int, tuple[int, ...]
]  # of a tensor into channel vectors: along which dim, into how many groups, and its extents from there
Readers = dict[str, tuple[Cut, tuple[float, float]]]  # by layer: how it cuts the tensor, and the least and greatest value


class Watch:
    """The hooks that record the layers' inputs; each layer's random stream depends on the seed and its name only.

    new     makes the record of a layer that is met for the first time
    before  layer -> vectors that others drew of its random stream; drawn: how many were drawn of it here
    """

    def __init__(
        self, layers: dict[str, Observed], readings: dict[str, Reading], seed: int, new: Callable[[], Observed] = Observed
    ) -> None:
        self.layers, self.readings, self.seed, self.new = layers, readings, seed, new
        self.random: dict[str, np.random.Generator] = {}
        self.before: dict[str, int] = {}
        self.drawn: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        self.read: dict[Any, tuple[Any, int, Readers]] = {}

    def new_run(self, part: Part) -> None:
        self.part = part
        self.calls.clear()
        self.read.clear()

    def hook(self, name: str) -> Callable[..., None]:
        def hook(module: FloatLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else next(iter(kwargs.values()))
            self.see(name, given, channel_dim(module), input_groups(module))

        return hook

    def see(self, name: str, given: torch.Tensor, dim: int, groups: int = 1) -> None:
        """A layer's input: vectors along `dim`, cut into groups."""
        x = torch.cat(given.detach().unbind()) if given.is_nested else given.detach()
        observed = self.layers.setdefault(name, self.new())
        reading = self.readings.setdefault(name, Reading())
        readers = self._readers(given)
        cut = (dim, groups, tuple(x.shape[dim:]))
        extremes = self._beside(name, cut, readers)
        vectors = x.movedim(dim, -1)
        keep = current()
        real = None if keep is None else keep.of(vectors.shape[:-1])
        if real is not None:
            reading.padded += int(real.numel() - real.sum())
        elif keep is not None and vectors.shape[:-1].numel() >= keep.real.numel():
            reading.untold += vectors.shape[:-1].numel()
        if extremes is None:
            extremes = self._add(name, observed, x if real is None else vectors[real.to(x.device)], dim if real is None else -1, groups)
        readers[name] = (cut, extremes)
        self._called(name, reading, extremes)

    def see_factor(self, name: str, observed: Observed, x: torch.Tensor, dim: int) -> None:
        """A factor of a product of two activations: [..., positions, values] or [samples, heads, positions, values]."""
        vectors, keep = x.detach().movedim(dim, -1), current()
        if keep is not None and vectors.ndim == 4 and keep.real.ndim == 2:
            real = keep.of(torch.Size((len(vectors), vectors.shape[2])))
            vectors = vectors if real is None else vectors[real[:, None].expand(vectors.shape[:-1]).to(x.device)]
        self._add(name, observed, vectors, -1, 1)

    def _add(self, name: str, observed: Observed, x: torch.Tensor, dim: int, groups: int) -> tuple[float, float]:
        extremes: tuple[float, float] = (0.0, 0.0)
        if on_host(x):
            values = x.float().numpy().ravel(order="K")
            if values.size:
                extremes = (float(values.min()), float(values.max()))
            self._check(name, x, extremes)
            observed.add_values(values, extremes)
        elif x.numel():
            low, high = torch.stack(x.float().aminmax()).tolist()
            extremes = (low, high)
            self._check(name, x, extremes)
            observed.add_counted(x.numel(), extremes, partial(counted_there, x))
        vectors = x.movedim(dim, -1).unflatten(-1, (groups, -1))
        if not observed.keys.size or observed.sample.shape[1] == vectors.shape[-1]:  # probabilities have as many values as there are keys
            if name not in self.random:
                self.random[name] = np.random.default_rng([self.seed, crc32(name.encode())])
                self.random[name].bit_generator.advance(self.before.get(name, 0))  # type: ignore[attr-defined]  # of PCG64
            self.drawn[name] = self.drawn.get(name, 0) + vectors.shape[:-1].numel()
            self._sample(observed, self.random[name], vectors)
        return extremes

    def _sample(self, observed: Observed, rng: np.random.Generator, vectors: torch.Tensor) -> None:
        keys = rng.random(vectors.shape[:-1].numel())
        chosen = observed.wanted(keys, vectors.shape[-1])
        if chosen.size:
            where = np.unravel_index(chosen, vectors.shape[:-1])
            picked = vectors[tuple(torch.from_numpy(axis).to(vectors.device) for axis in where)]
            observed.add_sample(picked.float().cpu().numpy(), keys[chosen])

    def _check(self, name: str, values: torch.Tensor, extremes: tuple[float, float]) -> None:
        if not np.isfinite(extremes).all():
            bad = int(values.numel() - values.isfinite().sum())
            finite = all(t.isfinite().all() for t in self.part.tensors)
            why = "the samples are finite, the model makes them" if finite else "calibrate with finite samples"
            raise CalibrationError(f"layer {name!r}: {bad} of {values.numel()} input values are NaN or infinite; {why}")

    def _called(self, name: str, reading: Reading, extremes: tuple[float, float]) -> None:
        call = self.calls[name] = self.calls.get(name, 0) + 1
        if call > len(reading.largest):
            reading.largest.append(0.0)
        reading.largest[call - 1] = max(reading.largest[call - 1], extremes[1], -extremes[0])

    def _readers(self, x: torch.Tensor) -> Readers:
        """The layers that read these very values before, in this run. Values written to since are others; a view of the same is not."""
        if x.is_nested:
            return {}
        now, place = 0 if x.is_inference() else x._version, _place(x)
        storage, version, readers = self.read.get(place, (None, 0, {}))
        if storage is None or storage.expired() or version != now:
            readers = {}
            self.read[place] = (StorageWeakRef(x.untyped_storage()), now, readers)
        return readers

    def _beside(self, name: str, cut: Cut, readers: Readers) -> tuple[float, float] | None:
        """Note who else reads these values; their extremes, where another layer's channel vectors are the same, so all is observed."""
        known = None
        for other, (others_cut, extremes) in readers.items():
            if other == name:
                continue
            for one, two in ((name, other), (other, name)):
                reading = self.readings[one]
                for names in (reading.beside, reading.alike) if others_cut == cut else (reading.beside,):
                    if two not in names:
                        names.append(two)
            known = extremes if others_cut == cut else known
        return known


def on_host(x: torch.Tensor) -> bool:
    """Whether NumPy can look at it where it lies; values on another device are counted there."""
    return x.device.type == "cpu"


def counted_there(x: torch.Tensor, factor: np.float32, bins: int) -> np.ndarray:
    """`kernels.histogram.count`, on the tensor's device: only the counts travel."""
    total = torch.zeros(bins, dtype=torch.int64, device=x.device)
    for part in x.reshape(-1).split(AT_ONCE):
        total += torch.bincount((part.float() * float(factor)).floor_().long() + bins // 2, minlength=bins)
    return total.cpu().numpy()


def _place(x: torch.Tensor) -> tuple[Any, ...]:
    """Where its values lie in memory, in whatever shape."""
    shape = (x.numel(),) if x.is_contiguous() else (tuple(x.shape), x.stride())
    return (x.untyped_storage()._cdata, x.storage_offset(), *shape)
