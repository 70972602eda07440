"""Watch a model on calibration batches: what each layer's input looks like, in bounded memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import nn

from overq.calib import Observed
from overq.errors import CalibrationError
from overq.nn.layers import CHANNEL_DIM, FloatLayer, can_quantize, input_groups, kind

Forward = Callable[[nn.Module, Any], Any]
CHUNK = 32  # images a batch, where one tensor of samples is given


@dataclass(frozen=True)
class Observations:
    """What every reached layer saw, by dotted name, in the order of the first call. `quantize` takes it in place of samples."""

    layers: dict[str, Observed] = field(default_factory=dict)


def run(model: nn.Module, batch: Any) -> Any:
    """How a batch meets the model: a mapping as keywords; of a tuple or list the first item (loaders yield input, label); else as it is."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def observe(model: nn.Module, samples: Any, *, forward: Forward = run, seed: int = 0, only: str | None = None) -> Observations:
    """Run a copy of `model`, in eval mode and without gradients, over the samples and record the input of every layer.

    samples  one tensor, cut into batches of 32 along its first axis, or an iterable of batches as `forward` takes them.
             They are moved to the model's device and, where the model has one floating dtype, to that dtype.
    forward  how a batch meets the model; `run` unless given
    seed     of the sample of channel vectors
    only     dotted name of the one layer to watch; None watches all

    Raises CalibrationError where there is no sample, or a layer sees NaN or infinity.
    """
    model = copy.deepcopy(model).eval()
    seen = Observations()
    # A module shared between places has one name and one record: all its calls are observed together.
    hooks = [
        module.register_forward_pre_hook(_watch(name, seen, seed), with_kwargs=True)
        for name, module in model.named_modules()
        if can_quantize(module) and only in (None, name)
    ]
    device, dtype = home(model)
    count = 0
    try:
        with torch.no_grad():
            for batch in batches(samples):
                forward(model, moved(batch, device, dtype))
                count += 1
    finally:
        for hook in hooks:
            hook.remove()
    if not count:
        raise CalibrationError("no calibration samples: give at least one batch")
    return seen


def batches(samples: Any) -> Iterable[Any]:
    """A tensor in chunks along its first axis; any other iterable as it is."""
    if isinstance(samples, torch.Tensor):
        return samples.split(CHUNK) if samples.shape[0] else ()
    if isinstance(samples, Mapping) or not isinstance(samples, Iterable):
        raise CalibrationError(f"samples must be a tensor or an iterable of batches, not {type(samples).__name__}")
    return samples


def home(model: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """The device of the model's first parameter, and its floating dtype if all parameters share one; None where it has none."""
    parameters = list(model.parameters())
    dtypes = {p.dtype for p in parameters if p.is_floating_point()}
    return (parameters[0].device if parameters else None), (dtypes.pop() if len(dtypes) == 1 else None)


def moved(batch: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """The batch with its tensors on `device` and its floating tensors in `dtype`."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device=device, dtype=dtype if batch.is_floating_point() else None)
    if isinstance(batch, Mapping):
        return {key: moved(value, device, dtype) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return [moved(value, device, dtype) for value in batch]
    return batch


def _watch(name: str, seen: Observations, seed: int) -> Callable[..., None]:
    """The hook that records one layer's input; its random stream depends on the seed and the layer's name only."""
    rng = np.random.default_rng([seed, crc32(name.encode())])

    def hook(module: FloatLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = (args[0] if args else kwargs["input"]).detach()
        values = x.float().cpu().numpy().ravel(order="K")
        if values.size and not np.isfinite([values.min(), values.max()]).all():
            bad = int(values.size - np.isfinite(values).sum())
            raise CalibrationError(
                f"layer {name!r}: {bad} of {values.size} input values are NaN or infinite; calibrate with finite samples"
            )
        observed = seen.layers.setdefault(name, Observed())
        observed.add_values(values)
        vectors = x.movedim(CHANNEL_DIM[kind(module)], -1).unflatten(-1, (input_groups(module), -1))
        keys = rng.random(vectors.shape[:-1].numel())
        lanes = vectors.shape[-1]
        chosen = observed.wanted(keys, lanes)
        if chosen.size:
            where = np.unravel_index(chosen, vectors.shape[:-1])
            picked = vectors[tuple(torch.from_numpy(axis).to(x.device) for axis in where)]
            observed.add_sample(picked.float().cpu().numpy(), keys[chosen])

    return hook
