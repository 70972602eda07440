"""What an operation of a network is: one small set of frozen kinds, with its options as plain numbers.

Functions, methods, operators and modules that do the same are one kind: `F.relu(x)`, `x.clamp(min=0)` and `nn.ReLU()` are
Clip(0, inf). `nn.options` makes them; `nn.graph` reads networks as lists of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Input:
    """What the network is given."""


@dataclass(frozen=True)
class Output:
    """What the network returns; single: one tensor."""

    single: bool


@dataclass(frozen=True)
class Constant:
    """A parameter or buffer that is read as a tensor; its name is the node's target."""


@dataclass(frozen=True)
class Number:
    """What is no tensor: an extent or what was computed of extents. size: (tensor's node, dim) where it is just that extent."""

    size: tuple[str, int] | None = None


@dataclass(frozen=True)
class Conv:
    """A convolution layer, float or quantized, 1d or 2d; channels along dim 1."""


@dataclass(frozen=True)
class Linear:
    """A matrix product layer, float or quantized; features along the last dim."""


@dataclass(frozen=True)
class Norm:
    """Batch norm as in evaluation; channels along dim 1."""


@dataclass(frozen=True)
class MatMul:
    """A product of two tensors of the network."""


@dataclass(frozen=True)
class Clip:
    """min(max(x, low), high)."""

    low: float
    high: float


@dataclass(frozen=True)
class Pointwise:
    """Every value by itself, all alike."""

    name: str


@dataclass(frozen=True)
class Scale:
    """x · factor + offset."""

    factor: float
    offset: float


@dataclass(frozen=True)
class Add:
    """first + alpha · second, broadcast."""

    alpha: float = 1.0


@dataclass(frozen=True)
class Pair:
    """mul, div, maximum or minimum of two tensors, broadcast."""

    name: str


@dataclass(frozen=True)
class Cat:
    dim: int


@dataclass(frozen=True)
class Pad:
    """widths as torch.nn.functional.pad has them: (before, after) from the last dim on, negative ones cut."""

    widths: tuple[int, ...]
    mode: str = "constant"
    value: float = 0.0


@dataclass(frozen=True)
class Pool:
    """Windows over the last len(kernel) dims. how: "average" or "greatest"; include_pad and divisor are for averages."""

    how: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil: bool = False
    include_pad: bool = True
    divisor: int | None = None


@dataclass(frozen=True)
class AdaptivePool:
    """The last len(size) dims cut into that many regions; None keeps a dim's extent."""

    how: str
    size: tuple[int | None, ...]


@dataclass(frozen=True)
class Upsample:
    """Every value `factors` times in each of the last len(factors) dims; a single number: in all dims but the first two."""

    factors: tuple[int, ...] | int


@dataclass(frozen=True)
class Reduce:
    """how: "average", "sum", "greatest" or "least" over dims, None for all."""

    how: str
    dims: tuple[int, ...] | None
    keep: bool = False


@dataclass(frozen=True)
class Flatten:
    start: int
    end: int


@dataclass(frozen=True)
class Reshape:
    """shape holds Refs where an extent is computed."""

    shape: tuple[Any, ...]


@dataclass(frozen=True)
class Pick:
    """Indexing with constants: ints, slices, None, Ellipsis, lists."""

    index: tuple[Any, ...]


@dataclass(frozen=True)
class Split:
    """Several tensors, cut along dim: into `chunks` equal parts, or parts of these sizes, or of this one size."""

    dim: int
    sizes: tuple[int, ...] | int | None = None
    chunks: int | None = None

    def bounds(self, total: int) -> list[tuple[int, int]]:
        """(start, end) of every part of a dim of that extent."""
        if isinstance(self.sizes, tuple):
            ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
            return list(zip([0, *ends], ends, strict=False))
        size = self.sizes if self.sizes is not None else -(-total // (self.chunks or 1))
        return [(start, min(start + size, total)) for start in range(0, total, size)]


@dataclass(frozen=True)
class Part:
    """One tensor of a Split or of a Move that yields several."""

    index: int


@dataclass(frozen=True)
class Move:
    """Values change places or are repeated; none changes. dims: its arguments in their order, where all are plain ints."""

    name: str
    dims: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Same:
    """The tensor itself, or a copy of it."""

    name: str = "identity"


@dataclass(frozen=True)
class Unknown:
    """why: what hinders, in a few words; empty where the operation as such is not known."""

    why: str = ""


Op = (
    Input | Output | Constant | Number | Conv | Linear | Norm | MatMul | Clip | Pointwise | Scale | Add | Pair | Cat | Pad | Pool
    | AdaptivePool | Upsample | Reduce | Flatten | Reshape | Pick | Split | Part | Move | Same | Unknown
)  # fmt: skip


@dataclass(frozen=True)
class Ref:
    """Another node's value among an operation's arguments; number and size as in `Number`."""

    name: str
    number: bool = False
    size: tuple[str, int] | None = None

    def __repr__(self) -> str:
        return self.name
