"""Watch a model on calibration batches: what each layer's input looks like, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import reduce
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy

from overq.calib import Observed
from overq.errors import CalibrationError, OverqError
from overq.nn.call import Forward, parameters, run
from overq.nn.candidates import can_quantize
from overq.nn.chosen import Choosing, Chosen
from overq.nn.compute import Count, counted
from overq.nn.layers import FloatLayer, channel_dim, input_groups
from overq.nn.padding import Keep, Mask, current, followed, keep_of, known
from overq.nn.reads import other_uses
from overq.nn.replica import ready
from overq.nn.samples import Part, Stream, opened
from overq.nn.trees import home, moved


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


@dataclass(frozen=True)
class Observations:
    """What every reached layer saw, by dotted name, in the order of the first call. `quantize` takes it in place of samples.

    layers    extremes, histogram and sampled channel vectors
    readings  calls, readers of the same tensor, padding
    count     the model's multiply-accumulates, of the first few samples; None where nothing ran
    stream    how the samples were cut; None where there were none
    chosen    some of the samples, for what runs them again
    tensors   name of every layer -> of the first layer that reads the same channel vectors, mostly itself. Layers that read the same have
              one observation in `layers`, as they get one format and one step
    other     layers that are used besides their own calls, which calls cannot stand for, and how (see `nn.reads`)
    fits      what `fit_layer` found for a rule, so that other weight widths need not search steps and orders again
    """

    layers: dict[str, Observed] = field(default_factory=dict)
    readings: dict[str, Reading] = field(default_factory=dict)
    count: Count | None = None
    stream: Stream | None = None
    chosen: Chosen | None = None
    tensors: dict[str, str] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)
    fits: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


def observe(
    model: nn.Module,
    samples: Any,
    *,
    forward: Forward = run,
    mask: Mask | None = None,
    seed: int = 0,
    only: str | None = None,
    like: Stream | None = None,
) -> Observations:
    """Run a copy of `model`, in eval mode and without gradients, over the samples and record the input of every layer.

    samples  one tensor or array, a mapping of arguments, or an iterable of batches: tensors, arrays, mappings, and tuples or lists of
             which as many items are passed as the model's forward requires. How they are cut into batches and laid out in memory makes no
             difference where the model treats each sample by itself (see `nn.samples`). They are moved to the model's device and, where
             the model has one floating dtype, to that dtype.
    forward  how a batch meets the model; `nn.call.run` unless given
    mask     which positions are real, so that padding is left out: the name of a batch's item or of an argument that is true where they
             are ("~name": where they are padded), a function of the batch, or one bool tensor [samples, positions]
    seed     of the sample of channel vectors
    only     dotted name of the one layer to watch; None watches all
    like     the stream of an earlier observation of these samples: it is cut alike

    Raises CalibrationError where there is no sample, where a batch could be meant in two ways, where the model does not run on it, or a
    layer sees NaN or infinity.
    """
    check_weights(model)
    original, model = model, ready(model)
    with torch.no_grad():
        stream = opened(model, samples, forward, like=like)
        seen = Observations()
        watched = [(name, m) for name, m in model.named_modules() if can_quantize(m) and only in (None, name)]
        watch, choosing = _Watch(seen, seed), Choosing(stream, seed)
        # A module shared between places has one name and one record: all its calls are observed together.
        hooks = [m.register_forward_pre_hook(watch.hook(name), with_kwargs=True) for name, m in watched]
        try:
            for part, keep in masked(model, stream, mask):
                watch.new_run(part)
                if only is None:
                    choosing.add(part, keep)
                stream.hint = stream.hint or (_mask_like(model, stream, part) if mask is None else "")
                with (
                    counted(model) if stream.count is None else nullcontext(stream.count) as count,
                    known(keep),
                    followed(model),
                    other_uses(model, original, seen.other),
                ):
                    answer(model, stream, part)
                if stream.count is None:
                    stream.count = count
        finally:
            for hook in hooks:
                hook.remove()
    assert stream.count is not None
    tensors = _one_observation(seen)
    for name in [name for name, observed in seen.layers.items() if not observed.values]:  # an expert that no token was sent to
        del seen.layers[name], seen.readings[name]
        if not seen.layers and only is None:
            raise CalibrationError(f"layer {name!r} and all others got empty inputs: the samples hold no values")
    tensors = {name: first for name, first in tensors.items() if name in seen.layers}
    return Observations(seen.layers, seen.readings, stream.count, stream, None if only else choosing.done(), tensors, seen.other)


def _one_observation(seen: Observations) -> dict[str, str]:
    """Give layers that read the same tensors one observation; name of a layer -> of the first that reads the same."""
    groups: dict[str, list[str]] = {}
    for name in seen.layers:
        together = [groups[other] for other in seen.readings[name].alike if other in groups]
        group = [n for n in seen.layers if n == name or any(n in other for other in together)]
        groups.update(dict.fromkeys(group, group))
    for first, group in [(name, group) for name, group in groups.items() if name == group[0] and len(group) > 1]:
        own = [seen.layers[name] for name in group if seen.layers[name].values]  # most only read what was observed already
        seen.layers.update(dict.fromkeys(group, reduce(Observed.merge, own) if own else seen.layers[first]))
    return {name: groups[name][0] for name in seen.layers}


def check_weights(model: nn.Module) -> None:
    """Refuse weights that are not there: of lazy layers that never ran, on the meta device, inside compiled code."""
    if isinstance(model, torch.jit.ScriptModule):
        raise CalibrationError("the model is compiled by torch.jit, whose layers cannot be replaced: give the module that it was made from")
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if is_lazy(parameter):
                raise CalibrationError(
                    f"layer {name!r} is a {type(module).__name__} whose weights have no shape yet: run the model once, then quantize it"
                )
            if parameter.is_meta:
                raise CalibrationError(f"layer {name!r} has its weights on the meta device, where they have no values: load them first")


def masked(model: nn.Module, stream: Stream, mask: Mask | None) -> Iterator[tuple[Part, Keep | None]]:
    """The stream's parts, each with what is known of its padding."""
    first, bound = 0, stream.bound
    for part in stream:
        keep = keep_of(model, mask, part.batch, bound, first, part.rows)
        if keep is not None and stream.together and len(keep.real) != part.rows:
            raise CalibrationError(f"the mask of a batch has {len(keep.real)} rows, its samples {part.rows}")
        yield part, keep
        first += part.rows or 0
    if isinstance(mask, (torch.Tensor, np.ndarray)) and first != len(mask):
        raise CalibrationError(f"the mask has {len(mask)} rows, the samples {first}")


def answer(model: nn.Module, stream: Stream, part: Part) -> Any:
    """The model's answer to one part; an error of its own in one line."""
    try:
        return stream.forward(model, moved(part.batch, *home(model)))
    except OverqError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in part.tensors) or "without a tensor"
        said = " ".join(str(error).split())[:300]
        raise CalibrationError(f"the model does not run on samples {shapes}: {type(error).__name__}: {said}") from error


def _mask_like(model: nn.Module, stream: Stream, part: Part) -> str:
    """Name of an item that holds both zeros and ones at positions, and is called a mask."""
    args, keywords = part.batch if stream.bound else ((), {})
    named = {**dict(zip(parameters(model).names, args, strict=False)), **keywords}
    for name, item in named.items():
        if "mask" in name and isinstance(item, torch.Tensor) and item.ndim == 2 and item.unique().tolist() == [0, 1]:
            return name
    return ""


Cut = tuple[
    int, int, tuple[int, ...]
]  # of a tensor into channel vectors: along which dim, into how many groups, and its extents from there
Readers = dict[str, tuple[Cut, tuple[float, float]]]  # by layer: how it cuts the tensor, and the least and greatest value


class _Watch:
    """The hooks that record the layers' inputs; each layer's random stream depends on the seed and its name only."""

    def __init__(self, seen: Observations, seed: int) -> None:
        self.seen, self.seed = seen, seed
        self.calls: dict[str, int] = {}
        self.read: dict[Any, tuple[Any, int, Readers]] = {}

    def new_run(self, part: Part) -> None:
        self.part = part
        self.calls.clear()
        self.read.clear()

    def hook(self, name: str) -> Callable[..., None]:
        rng = np.random.default_rng([self.seed, crc32(name.encode())])

        def hook(module: FloatLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else next(iter(kwargs.values()))
            x = torch.cat(given.detach().unbind()) if given.is_nested else given.detach()
            observed = self.seen.layers.setdefault(name, Observed())
            reading = self.seen.readings.setdefault(name, Reading())
            readers = self._readers(given)
            cut = (channel_dim(module), input_groups(module), tuple(x.shape[channel_dim(module) :]))
            extremes = self._beside(name, cut, readers)
            vectors = x.movedim(channel_dim(module), -1)
            keep = current()
            real = None if keep is None else keep.of(vectors.shape[:-1])
            if real is not None:
                reading.padded += int(real.numel() - real.sum())
            elif keep is not None and vectors.shape[:-1].numel() >= keep.real.numel():
                reading.untold += vectors.shape[:-1].numel()
            if extremes is None:
                if real is not None:
                    vectors = x = vectors[real.to(x.device)]
                values = x.float().cpu().numpy().ravel(order="K")
                extremes = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
                self._check(name, values, extremes)
                observed.add_values(values, extremes)
                self._sample(observed, rng, vectors.unflatten(-1, (input_groups(module), -1)))
            readers[name] = (cut, extremes)
            self._called(name, reading, extremes)

        return hook

    def _sample(self, observed: Observed, rng: np.random.Generator, vectors: torch.Tensor) -> None:
        keys = rng.random(vectors.shape[:-1].numel())
        chosen = observed.wanted(keys, vectors.shape[-1])
        if chosen.size:
            where = np.unravel_index(chosen, vectors.shape[:-1])
            picked = vectors[tuple(torch.from_numpy(axis).to(vectors.device) for axis in where)]
            observed.add_sample(picked.float().cpu().numpy(), keys[chosen])

    def _check(self, name: str, values: np.ndarray, extremes: tuple[float, float]) -> None:
        if not np.isfinite(extremes).all():
            bad = int(values.size - np.isfinite(values).sum())
            finite = all(t.isfinite().all() for t in self.part.tensors)
            why = "the samples are finite, the model makes them" if finite else "calibrate with finite samples"
            raise CalibrationError(f"layer {name!r}: {bad} of {values.size} input values are NaN or infinite; {why}")

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
                reading = self.seen.readings[one]
                for names in (reading.beside, reading.alike) if others_cut == cut else (reading.beside,):
                    if two not in names:
                        names.append(two)
            known = extremes if others_cut == cut else known
        return known


def _place(x: torch.Tensor) -> tuple[Any, ...]:
    """Where its values lie in memory, in whatever shape."""
    shape = (x.numel(),) if x.is_contiguous() else (tuple(x.shape), x.stride())
    return (x.untyped_storage()._cdata, x.storage_offset(), *shape)
