"""A quantized model as a list of steps: what an integer network does, in order. Anything else is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from overq.errors import InputError
from overq.integer import windows
from overq.nn import kinds
from overq.nn.graph import Graph, Node
from overq.nn.quantized import Quantized

Affine = tuple[Sequence[float], Sequence[float]]  # (factors, offsets): one for all channels, or one each


@dataclass(frozen=True)
class Step:
    """One operation on integers.

    name      of the graph's node; inputs: names of the steps it reads
    kind      input, number (an extent), constant, layer, rescale (its result has a unit of its own) or same: keeps its inputs' unit
    node      of the graph, whose value this step's stands for: a layer's with the batch norm behind it is the norm's
    target    a layer's dotted name
    norm      the batch norm right behind a layer
    apply     same: (unit, *inputs) -> value; rescale: (*inputs) -> (sum, what it is to be divided by)
    affine    of a rescale: (factors, offsets) in real numbers, one for all or one per place along `dim`
    merges    several values meet in one stream
    """

    name: str
    kind: str
    node: Node
    inputs: tuple[str, ...] = ()
    target: str = ""
    norm: nn.Module | None = None
    apply: Callable[..., Any] | None = None
    affine: Affine = ((1.0,), (0.0,))
    dim: int = 1
    merges: bool = False


def steps(graph: Graph) -> list[Step]:
    """In execution order; the last one's value is the output. InputError names the first operation without an integer form."""
    nodes = graph.live()
    readers: dict[str, list[Node]] = {node.name: [] for node in nodes}
    for node in nodes:
        for name in node.inputs:
            readers[name].append(node)
    made: dict[str, Step] = {}
    alias: dict[str, str] = {}  # a folded norm -> its layer's step
    for node in nodes:
        inputs = tuple(alias.get(name, name) for name in node.inputs)
        before = made.get(inputs[0]) if inputs else None
        if (
            isinstance(node.op, kinds.Norm)
            and before is not None
            and before.kind == "layer"
            and before.norm is None
            and len(readers[before.node.name]) == 1
        ):
            check_norm(node)
            made[before.name] = Step(before.name, "layer", node, before.inputs, before.target, node.module)
            alias[node.name] = before.name
            continue
        if isinstance(node.op, kinds.Input) and any(s.kind == "input" for s in made.values()):
            raise InputError(f"{node.why}: integers are for models with one input")
        for step in _weighted(node, inputs, made) or _steps(node, inputs):
            made[step.name] = step
    return [s for s in made.values() if s.kind != "output"]


def _steps(node: Node, inputs: tuple[str, ...]) -> Sequence[Step]:
    """One step, or two where a sum weighs its second operand."""
    op = node.op
    make = partial(Step, node.name, node=node, inputs=inputs)
    if isinstance(op, kinds.Input):
        return [make("input")]
    if isinstance(op, kinds.Number):
        return [make("number", apply=node.run)]
    if isinstance(op, kinds.Constant):
        return [make("constant")]
    if isinstance(op, kinds.Output):
        if not op.single:
            raise InputError("the model returns more than one tensor: integers are for models with one output")
        return [Step("output", "same", node, inputs, apply=lambda unit, x: x)]
    if isinstance(op, (kinds.Conv, kinds.Linear)):
        if not isinstance(node.module, Quantized):
            raise _refused(node, f"layer {node.target!r} was left in float")
        return [make("layer", target=node.target)]
    if isinstance(op, kinds.Add) and op.alpha not in (1, -1) and len(inputs) == 2:
        weighed = Step(f"{node.name}.alpha", "rescale", node, inputs[1:], apply=lambda x: (x, 1), affine=([op.alpha], [0.0]))
        both = Step(node.name, "same", node, (inputs[0], weighed.name), apply=lambda unit, x, y: x + y, merges=True)
        return [weighed, both]
    if (rescaled := _rescale(node)) is not None:
        return [make("rescale", apply=rescaled[0], affine=rescaled[1])]
    return [make("same", apply=_same(node), merges=isinstance(op, (kinds.Add, kinds.Pair, kinds.Cat)))]


def _weighted(node: Node, inputs: tuple[str, ...], made: dict[str, Step]) -> list[Step]:
    """A product with a parameter or buffer that has one value, or one for each place along one dim; none where it is something else."""
    op = node.op
    if not (isinstance(op, kinds.Pair) and op.name in ("mul", "div") and len(inputs) == 2):
        return []
    constant = [made[name].node.tensor for name in inputs if made[name].kind == "constant"]
    if len(constant) != 1 or constant[0] is None or (op.name == "div" and made[inputs[1]].kind != "constant"):
        return []
    wide = [i - constant[0].ndim for i, size in enumerate(constant[0].shape) if size > 1]
    values = constant[0].detach().cpu().double().flatten()
    values = values if op.name == "mul" else 1 / values
    if len(wide) > 1 or not bool(values.isfinite().all()):
        raise _refused(
            node, f"its factors have shape {list(constant[0].shape)}" if len(wide) > 1 else "it divides by 0 or multiplies by no number"
        )
    value = next(name for name in inputs if made[name].kind != "constant")
    affine = (values.tolist(), [0.0] * len(values))
    return [Step(node.name, "rescale", node, (value,), apply=lambda x: (x, 1), affine=affine, dim=wide[0] if wide else 1)]


def _refused(node: Node, why: str = "") -> InputError:
    return InputError(f"operation {node.name!r} ({node.what}) has no integer form{': ' + why if why else ''}")


def check_norm(node: Node) -> None:
    if getattr(node.module, "running_var", None) is None:
        raise _refused(node, f"batch norm {node.target!r} keeps no statistics")


ONE: Affine = ((1.0,), (0.0,))


def norm_affine(norm: Any) -> tuple[Tensor, Tensor]:
    """float64 (slope, shift) of a batch norm: y = x · slope + shift."""
    slope = 1 / torch.sqrt(norm.running_var.detach().cpu().double() + norm.eps)
    slope = slope if norm.weight is None else slope * norm.weight.detach().cpu().double()
    shift = torch.zeros_like(slope) if norm.bias is None else norm.bias.detach().cpu().double()
    return slope, shift - norm.running_mean.detach().cpu().double() * slope


def _rescale(node: Node) -> tuple[Callable[..., tuple[Tensor, Any]], Affine] | None:
    """(sum and divisor, affine) of steps whose result has another unit; None for the others."""
    op = node.op
    if isinstance(op, kinds.Norm):
        check_norm(node)
        slope, shift = norm_affine(node.module)
        return lambda x: (x, 1), (slope.tolist(), shift.tolist())
    if isinstance(op, kinds.Scale) and op != kinds.Scale(1.0, 0.0):
        if not (math.isfinite(op.factor) and math.isfinite(op.offset)):
            raise _refused(node, f"it multiplies by {op.factor} and adds {op.offset}")
        return lambda x: (x, 1), ([op.factor], [op.offset])
    if isinstance(op, kinds.Pool) and op.how == "average":
        return partial(windows.average, pool=op), ONE
    if isinstance(op, kinds.AdaptivePool) and op.how == "average":
        return partial(windows.adaptive_average, size=op.size), ONE
    if isinstance(op, kinds.Reduce) and op.how in ("average", "sum"):
        return partial(_summed, op=op), ONE
    return None


def _summed(x: Tensor, op: kinds.Reduce) -> tuple[Tensor, int]:
    dims = op.dims if op.dims is not None else tuple(range(x.ndim))
    return x.sum(dims, keepdim=op.keep), math.prod(x.shape[d] for d in dims) if op.how == "average" else 1


def _same(node: Node) -> Callable[..., Any]:
    """What a step does that keeps the unit: (unit, *integers) -> integers."""
    op = node.op
    if isinstance(op, kinds.Clip):
        return partial(_clipped, low=op.low, high=op.high)
    if isinstance(op, kinds.Add):
        if op.alpha != int(op.alpha):  # of x + alpha · x; two different operands have a step for it
            raise _refused(node, f"option alpha={op.alpha} with one tensor twice")
        return partial(_added, alpha=int(op.alpha))
    if isinstance(op, kinds.Pair) and op.name in ("maximum", "minimum"):
        function = torch.maximum if op.name == "maximum" else torch.minimum
        return lambda unit, x, y=None: x if y is None else function(x, y)
    if isinstance(op, kinds.Pad):
        return partial(_padded, op=op)
    if isinstance(op, kinds.Pool):
        return lambda unit, x: windows.greatest(x, op)
    if isinstance(op, kinds.Upsample):
        return lambda unit, x: windows.repeated(x, op.factors)
    if isinstance(op, kinds.AdaptivePool):
        return lambda unit, x: windows.adaptive_greatest(x, op.size)
    if isinstance(op, kinds.Reduce):
        return partial(_extreme, op=op)
    if isinstance(op, kinds.Same) or op == kinds.Scale(1.0, 0.0):
        return lambda unit, x: x
    if isinstance(op, kinds.Reshape):  # `view` asks for a memory layout, which integers need not share
        return lambda unit, *values: node.run(*(v.contiguous() if isinstance(v, Tensor) else v for v in values))
    if isinstance(op, (kinds.Cat, kinds.Flatten, kinds.Pick, kinds.Split, kinds.Part, kinds.Move)):
        return lambda unit, *values: node.run(*values)
    why = op.why if isinstance(op, kinds.Unknown) else f"two tensors are combined by {op.name}" if isinstance(op, kinds.Pair) else ""
    raise _refused(node, why)


def _added(unit: float, x: Tensor, y: Tensor | None = None, *, alpha: int) -> Tensor:
    return x + alpha * (x if y is None else y)


def _clipped(unit: float, x: Tensor, *, low: float, high: float) -> Tensor:
    """Rounding down is monotone: the clip of rounded values is the rounded clip."""
    bounds = [math.floor(bound / unit) if math.isfinite(bound) else None for bound in (low, high)]
    return x if bounds == [None, None] else x.clamp(*bounds)


def _padded(unit: float, x: Tensor, *, op: kinds.Pad) -> Tensor:
    for i in range(len(op.widths) // 2):
        fill = math.floor(op.value / unit)
        x = windows.padded(x, x.ndim - 1 - i, op.widths[2 * i], op.widths[2 * i + 1], op.mode, fill)
    return x


def _extreme(unit: float, x: Tensor, *, op: kinds.Reduce) -> Tensor:
    dims = op.dims if op.dims is not None else tuple(range(x.ndim))
    return (torch.amax if op.how == "greatest" else torch.amin)(x, dims, keepdim=op.keep)
