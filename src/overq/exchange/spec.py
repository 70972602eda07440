"""What a builder is told of an ONNX node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from overq.errors import InputError


class UnsupportedError(InputError):
    """An operator, or an option of one, that has no builder."""


@dataclass(frozen=True)
class Computed:
    """A value that is known only when the network runs. rank: of its tensor, where the file tells; extents: a list of shape arithmetic."""

    name: str
    rank: int | None = None
    extents: bool = False


Value = Tensor | Computed | None  # a constant, something computed, or an optional input that is absent
Built = nn.Module | Callable[..., Any]


@dataclass(frozen=True)
class Spec:
    """One node: its operator's name, opset, attributes as plain values, inputs; outputs: how many are used."""

    op: str
    opset: int
    attributes: dict[str, Any]
    inputs: tuple[Value, ...]
    outputs: int = 1
    notes: list[str] = field(default_factory=list, compare=False)

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def input(self, index: int) -> Value:
        return self.inputs[index] if index < len(self.inputs) else None

    def constant(self, index: int, what: str) -> Tensor:
        """An input that must be a constant."""
        value = self.input(index)
        if not isinstance(value, Tensor):
            raise UnsupportedError(f"{what} is computed while it runs")
        return value

    def ints(self, index: int, attribute: str, default: list[int] | None = None) -> list[int] | None:
        """A list that older opsets hold in an attribute and newer ones in an input; None where it is absent."""
        if attribute in self.attributes:
            return list(self.attributes[attribute])
        if self.input(index) is None:
            return default
        return [int(v) for v in self.constant(index, f"input {attribute!r}").flatten().tolist()]

    def rank(self, index: int = 0) -> int:
        value = self.input(index)
        rank = value.ndim if isinstance(value, Tensor) else value.rank if isinstance(value, Computed) else None
        if rank is None:
            raise UnsupportedError("the file does not tell how many dims its input has")
        return rank

    def refuse_unless(self, fine: bool, option: str) -> None:
        if not fine:
            raise UnsupportedError(f"option {option}={self.attributes.get(option)!r}")


DTYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
          10: torch.float16, 11: torch.float64, 16: torch.bfloat16}  # fmt: skip
