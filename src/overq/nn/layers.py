"""The layers that can be quantized, and how their input channels meet the lanes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from overq.methods import Fitted, Method, OverQ, Uniform
from overq.nn.dead_zone import cleared
from overq.nn.rotation import rotated
from overq.nn.shift import shifts
from overq.spec import Format

FloatLayer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CHANNEL_DIM: dict[type[nn.Module], int] = {  # counted from the end: unbatched inputs work too
    nn.Conv1d: -2, nn.Conv2d: -3, nn.Conv3d: -4, nn.ConvTranspose1d: -2, nn.ConvTranspose2d: -3, nn.ConvTranspose3d: -4, nn.Linear: -1,
}  # fmt: skip


def base_of(module: nn.Module) -> type[nn.Module] | None:
    """The kind of layer that it is: a convolution, a transposed one, Linear, or `transformers`' Conv1D, which is a Linear; None: none."""
    found = next((base for base in CHANNEL_DIM if isinstance(module, base)), None)
    conv1d = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)  # a model that has one has imported it
    return conv1d if found is None and conv1d is not None and isinstance(module, conv1d) else found


def kind(layer: nn.Module) -> type[nn.Module]:
    """`base_of` what is one."""
    base = base_of(layer)
    assert base is not None
    return base


def channel_dim(layer: nn.Module) -> int:
    """Of its input and output, counted from the end."""
    return CHANNEL_DIM.get(kind(layer), -1)


def outputs_first(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """A weight as the layer holds it -> [O, K, ...], O outputs of all groups and K inputs of one; perhaps a view."""
    if isinstance(layer, TRANSPOSED):
        return weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight if kind(layer) in CHANNEL_DIM else weight.T


def as_held(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """The inverse of `outputs_first`; contiguous."""
    if isinstance(layer, TRANSPOSED):
        return weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1).contiguous()
    return weight if kind(layer) in CHANNEL_DIM else weight.T.contiguous()


def weight_of(layer: nn.Module) -> torch.Tensor:
    """Its weight [O, K, ...], detached."""
    held: Any = layer.weight
    return outputs_first(layer, held.detach())


def input_groups(module: nn.Module) -> int:
    """Into how many separate channel groups the layer cuts its input."""
    return getattr(module, "groups", 1)


def input_lanes(module: nn.Module) -> int:
    """Channels of one group: lanes never cross a group."""
    lanes = getattr(module, "in_features", 0) or getattr(module, "in_channels", 0) // input_groups(module)
    return lanes or weight_of(module).shape[1]


def adds_a_constant(layer: nn.Module) -> bool:
    """Whether an input vector that is the same at all positions adds the same to all outputs: not where some are padded or apart."""
    plain = kind(layer) not in CHANNEL_DIM or isinstance(layer, nn.Linear)
    conv = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups == 1
    return plain or (conv and not any(layer._reversed_padding_repeated_twice))  # type: ignore[arg-type]


def suited(method: Method, module: nn.Module) -> Method:
    """The method as far as this layer can use it: a single-channel group has no neighbour, so it falls back to plain."""
    if input_lanes(module) != 1 or type(method) is Uniform or (isinstance(method, OverQ) and not method.cascade):
        return method
    return Uniform(min(method.bits, 8))  # type: ignore[attr-defined]  # every method has bits


def by_group(x: torch.Tensor, fmt: Format, dim: int, groups: int) -> tuple[torch.Tensor, Format, int]:
    """(x, format, dim) such that lanes cross no border between `groups` equal channel groups; x perhaps as a view with one more dim."""
    if groups == 1 or not fmt.cascade:
        return x, fmt, dim
    lanes = int(x.shape[dim]) // groups  # under torch.jit.trace an extent is a tensor
    if fmt.lanes is None or fmt.lanes >= lanes:
        return x, fmt.with_(lanes=lanes), dim  # a tile is a group
    if lanes % fmt.lanes == 0:
        return x, fmt, dim
    return x.unflatten(dim, (groups, lanes)), fmt, dim


@dataclass(frozen=True)
class Arrangement:
    """How the K input channels of a group meet its lanes, alike in every group; None leaves them as they are.

    scale     float32 [K], by channel: inputs are divided by it, weights multiplied
    order     int64 [K]: lane i carries channel order[i], of the rotated ones where there is a rotation
    rotation  int64 []: the seed of the rotation of the scaled inputs and of the weights (`nn.rotation`)
    shift     float32 [K], by channel: vectors nearer to it than to zero are quantized without it, and get it back (`nn.shift`)
    dead_zone float32 [2]: which small values of what the lanes get are made zeros first (`nn.dead_zone`)
    """

    scale: torch.Tensor | None = None
    order: torch.Tensor | None = None
    rotation: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    dead_zone: torch.Tensor | None = None

    @property
    def moves(self) -> bool:
        """Whether `inputs` are anything but themselves."""
        return not (self.scale is None and self.order is None and self.rotation is None)

    @property
    def parts(self) -> tuple[torch.Tensor | None, ...]:
        """All that it consists of."""
        return self.scale, self.order, self.rotation, self.shift, self.dead_zone

    def cpu(self) -> Arrangement:
        """The same, its tensors on the CPU."""
        return Arrangement(*(None if part is None else part.cpu() for part in self.parts))

    def inputs(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """The input as the lanes get it, its groups' K channels along `dim`, which counts from the end; linear in it."""
        if self.scale is not None:
            x = x / self.scale.to(x.dtype).reshape(-1, *[1] * (-dim - 1))
        if self.rotation is not None:
            x = rotated(x, int(self.rotation), dim)
        return x if self.order is None else x.index_select(dim, self.order)

    def around(self, quantized: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, dim: int) -> torch.Tensor:
        """`quantized` of what the lanes get of x, and what was shifted given back: it stands for `inputs`."""
        if self.shift is None:
            return quantized(self.cleared(self.inputs(x, dim), dim))
        away = shifts(x, self.shift, dim)
        return quantized(self.cleared(self.inputs(x - away, dim), dim)) + self.inputs(away, dim)

    def cleared(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """`inputs` with zeros for the small values of each vector along `dim`."""
        return x if self.dead_zone is None else cleared(x, self.dead_zone, dim)

    def vectors(self, sample: np.ndarray) -> np.ndarray:
        """Channel vectors float32 [M, K] as the lanes get them."""
        if self.shift is not None:
            sample = sample - shifts(torch.from_numpy(sample), self.shift, -1).numpy()
        if not self.moves and self.dead_zone is None:
            return sample
        return np.ascontiguousarray(self.cleared(self.inputs(torch.from_numpy(sample), -1), -1).numpy())

    def decoded(self, fitted: Fitted, sample: np.ndarray) -> np.ndarray:
        """What a layer multiplies with in place of channel vectors float32 [M, K]."""
        return self.around(lambda x: torch.from_numpy(fitted(np.ascontiguousarray(x.numpy()))), torch.from_numpy(sample), -1).numpy()

    def weight(self, weight: torch.Tensor) -> torch.Tensor:
        """A layer's weight [O, K, ...] that does to arranged inputs what it did to the inputs, but for rounding."""
        if self.scale is not None:
            scale = self.scale.to(weight.device).reshape(-1, *[1] * (weight.ndim - 2))
            weight = (weight.detach().float() * scale).to(weight.dtype)
        if self.rotation is not None:
            weight = rotated(weight.detach(), int(self.rotation), 1)
        return weight if self.order is None else weight[:, self.order.to(weight.device)]


AS_IT_IS = Arrangement()
