"""The ONNX graph that a PyTorch model becomes, while it is written: the shape of every value, and what has no form here.

Shapes are those that the model has on a sample; which of their extents follow the batch is found by running it on two batches of
different size. All others are constants of the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from overq.errors import InputError
from overq.exchange.layers_out import LayersOut
from overq.exchange.overwriting import OPSET
from overq.nn import kinds
from overq.nn.graph import Graph, Node

HINT = "export the float model with torch.onnx.export, read that with overq.from_onnx, then quantize and export it"


def refused(node: Node, why: str = "") -> InputError:
    reason = why or (node.op.why if isinstance(node.op, kinds.Unknown) else "")
    return InputError(f"operation {node.name!r} ({node.what}) has no ONNX form here{f': {reason}' if reason else ''}; {HINT}")


Shape = tuple[int | None, ...]  # None: an extent that follows the batch


def shapes_of(graph: Graph, sample: Tensor) -> dict[str, Any]:
    """By node: the Shape of its value, or several. sample: [1 or more, ...]."""

    def run(count: int) -> dict[str, Any]:
        batch = sample[:1].repeat(count, *[1] * (sample.ndim - 1))
        return {node.name: _shape(value) for node, value in graph.run(batch)}

    with torch.no_grad():
        small, large = run(2), run(3)
    return {name: _open(shape, large[name]) for name, shape in small.items()}


def _shape(value: Any) -> Any:
    return [_shape(v) for v in value] if isinstance(value, (tuple, list)) else tuple(value.shape) if isinstance(value, Tensor) else ()


def _open(a: Any, b: Any) -> Any:
    if isinstance(a, list):
        return [_open(*pair) for pair in zip(a, b, strict=True)]
    return tuple(i if i == j else None for i, j in zip(a, b, strict=True))


class Emitted(LayersOut):
    """shapes: by node, as `shapes_of` has them; norms: by the name of a quantized layer, the batch norm that alone reads it."""

    shapes: dict[str, Any]

    def __init__(self, form: str = "exact", opset: int = OPSET) -> None:
        super().__init__(form, opset)
        self.norms: dict[str, Node] = {}

    def rank(self, name: str) -> int:
        return len(self.shapes[name])

    def reshaped(self, node: Node, x: Any) -> Any:
        shape: Shape = self.shapes[node.name]
        if sum(size is None for size in shape) > 1:
            raise refused(node, "more than one of its extents follows the batch")
        return self.op("Reshape", x, self.ints("shape", [-1 if size is None else size for size in shape]))

    def number(self, value: float) -> Any:
        return self.shared("number", np.float64(value) if self.form == "exact" else np.float32(value))
