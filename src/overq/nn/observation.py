"""Watch a model on calibration batches: what each layer's input looks like, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from overq.calib import Observed
from overq.errors import CalibrationError, OverqError
from overq.nn.call import Forward, parameters, run
from overq.nn.candidates import can_quantize
from overq.nn.chosen import Choosing, Chosen
from overq.nn.compute import Count, counted
from overq.nn.functions import Functions
from overq.nn.padding import Keep, Mask, followed, keep_of, known
from overq.nn.reads import other_uses
from overq.nn.replica import ready, unwritten
from overq.nn.samples import Part, Stream, opened
from overq.nn.sites import Site
from overq.nn.trees import home, moved
from overq.nn.watch import Reading, Watch


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
    sites     products that the model spells as functions, by the name of their factor (see `nn.sites`); a factor whose other one is a
              parameter is in `layers`, too
    factors   what the others saw, of products of two activations; empty unless asked for
    unsure    products that cannot be quantized exactly, and why: by parameter or module
    multiplying  names of the modules whose forward multiplies activations
    products  whether factors were watched
    other     layers that are used besides their own calls, which calls cannot stand for, and how (see `nn.reads`)
    fits      what `fit_layer` found for a rule, so that other weight widths need not search steps and orders again
    """

    layers: dict[str, Observed] = field(default_factory=dict)
    readings: dict[str, Reading] = field(default_factory=dict)
    count: Count | None = None
    stream: Stream | None = None
    chosen: Chosen | None = None
    tensors: dict[str, str] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict)
    factors: dict[str, Observed] = field(default_factory=dict)
    unsure: dict[str, str] = field(default_factory=dict)
    multiplying: dict[str, None] = field(default_factory=dict)
    products: bool = False
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
    products: bool = False,
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
    products whether to watch the factors of products of two activations as well, for `Recipe.products`

    Raises CalibrationError where there is no sample, where a batch could be meant in two ways, where the model does not run on it, or a
    layer sees NaN or infinity.
    """
    check_weights(model)
    original, model = model, ready(model, borrow=True)
    with torch.no_grad(), unwritten(original):
        stream = opened(model, samples, forward, like=like)
        seen = Observations(products=products)
        choosing = Choosing(stream, seed)
        with watching(model, original, seen, Watch(seen.layers, seen.readings, seed), stream, only) as look:
            for part, keep in masked(model, stream, mask):
                if only is None:
                    choosing.add(part, keep)
                look(part, keep)
                hinted(model, stream, part, mask)
    return finished(seen, stream, None if only else choosing)


@contextmanager
def watching(
    model: nn.Module, original: nn.Module, seen: Observations, watch: Watch, stream: Stream, only: str | None = None
) -> Iterator[Callable[[Part, Keep | None], None]]:
    """Within the block, a function that runs the model, a copy of `original`, on one part of the stream and notes in `seen` what its
    layers read.
    """
    watched = [(name, m) for name, m in model.named_modules() if can_quantize(m) and only in (None, name)]
    functions = Functions(model, watch, seen, seen.products) if only is None else None

    def look(part: Part, keep: Keep | None) -> None:
        watch.new_run(part)
        with (
            counted(model) if stream.count is None else nullcontext(stream.count) as count,
            known(keep),
            followed(model),
            other_uses(model, original, seen.other),
            nullcontext() if functions is None else functions.watching(),
        ):
            answer(model, stream, part)
        if stream.count is None:
            stream.count = count

    # A module shared between places has one name and one record: all its calls are observed together.
    hooks = [m.register_forward_pre_hook(watch.hook(name), with_kwargs=True) for name, m in watched]
    try:
        yield look
    finally:
        for hook in hooks:
            hook.remove()
    if functions is not None:
        functions.done()


def finished(seen: Observations, stream: Stream, choosing: Choosing | None) -> Observations:
    """The observations once all samples went by. choosing: who kept some of them."""
    assert stream.count is not None
    tensors = _one_observation(seen)
    for name in [name for name, observed in seen.layers.items() if not observed.values]:  # an expert that no token was sent to
        del seen.layers[name], seen.readings[name]
        if not seen.layers and choosing is not None:
            raise CalibrationError(f"layer {name!r} and all others got empty inputs: the samples hold no values")
    tensors = {name: first for name, first in tensors.items() if name in seen.layers}
    return replace(seen, count=stream.count, stream=stream, chosen=None if choosing is None else choosing.done(), tensors=tensors)


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


def hinted(model: nn.Module, stream: Stream, part: Part, mask: Mask | None) -> None:
    """Note in the stream which of its items may be a mask, where none was given."""
    stream.hint = stream.hint or (_mask_like(model, stream, part) if mask is None else "")


def _mask_like(model: nn.Module, stream: Stream, part: Part) -> str:
    """Name of an item that holds both zeros and ones at positions, and is called a mask."""
    args, keywords = part.batch if stream.bound else ((), {})
    named = {**dict(zip(parameters(model).names, args, strict=False)), **keywords}
    for name, item in named.items():
        if "mask" in name and isinstance(item, torch.Tensor) and item.ndim == 2 and item.unique().tolist() == [0, 1]:
            return name
    return ""
