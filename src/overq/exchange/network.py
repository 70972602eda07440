"""from_onnx: an ONNX file as a torch.nn.Module whose layers `quantize` handles like any other. No code is generated.

Constants are folded, shape arithmetic runs on lists of ints, and what is left is a list of steps: a module, or a function of PyTorch. The
network is compared with onnxruntime where that is installed, and refused where the two part.
"""

from __future__ import annotations

import gc
import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overq.errors import InputError, OverqWarning
from overq.exchange.comparing import asked, compared
from overq.exchange.extents import EXTENTS
from overq.exchange.operators import OPERATORS
from overq.exchange.reading import attributes, loaded, tensor_of
from overq.exchange.spec import Computed, Spec, UnsupportedError, Value

OLDEST = 9
# inputs that say how, after the first: lists of ints, constant or computed
LISTS = ("Range", "Slice", "Reshape", "Expand", "Tile", "Resize", "ConstantOfShape", "Unsqueeze", "Squeeze", "Pad", "Split")
KEEPING = ("BatchNormalization", "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSwish", "MaxPool", "AveragePool")
NUMBERS = ("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")


@dataclass(frozen=True)
class Step:
    """arguments: ("value", name), ("buffer", name) or ("is", a plain value); made: names of its outputs."""

    run: Callable[..., Any] | None
    module: str
    arguments: tuple[tuple[str, Any], ...]
    made: tuple[str, ...]
    last: tuple[str, ...] = ()  # values that nobody reads afterwards


@dataclass(frozen=True)
class Origin:
    """Where a network was read. outputs: by the name of a module, the first output of the node that it stands for."""

    path: Path
    sha256: str
    outputs: dict[str, str]


def digest(path: Path) -> str:
    """SHA-256 of a file, read in parts."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


class OnnxNetwork(nn.Module):
    """input_names, output_names: of the file; notes: what was left out or read as something else; origin: for the way back."""

    origin: Origin | None = None

    def __init__(self, inputs: list[str], outputs: list[str]) -> None:
        super().__init__()
        self.input_names, self.output_names = tuple(inputs), tuple(outputs)
        self.steps: tuple[Step, ...] = ()
        self.notes: tuple[str, ...] = ()

    def forward(self, x: Any) -> Any:
        return self._run((x,))

    def _run(self, given: tuple[Any, ...]) -> Any:
        values = dict(zip(self.input_names, given, strict=True))
        for step in self.steps:
            take: dict[str, Callable[[Any], Any]] = {
                "value": values.__getitem__,
                "buffer": lambda name: getattr(self, name),
                "is": lambda v: v,
            }
            arguments = [take[kind](value) for kind, value in step.arguments]
            made = step.run(*arguments) if step.run is not None else getattr(self, step.module)(*arguments)
            if len(step.made) == 1:
                values[step.made[0]] = made
            else:
                values.update({name: made[i] for i, name in enumerate(step.made)})
            for name in step.last:
                del values[name]
        results = tuple(values[name] for name in self.output_names)
        return results[0] if len(results) == 1 else results


class OnnxNetworkOfSeveral(OnnxNetwork):
    """With several inputs, by position in the file's order."""

    def forward(self, *inputs: Any) -> Any:
        return self._run(inputs)


def from_onnx(path: str | Path, samples: Tensor | Sequence[Tensor] | None = None, *, check: bool = True) -> OnnxNetwork:
    """An ONNX file, opset 9 or newer, as a module in eval mode.

    samples  an input on which it is compared with onnxruntime, one tensor for each input of the file; without them, random ones of the
             shapes that the file tells
    check    whether it is compared at all

    OverqWarning, and `notes`, say where it was not compared, and where a quantized file's activations are read as float.

    Raises InputError for files that are no ONNX model, operators without a counterpart (with name, node and how many there are), and
    where the outputs differ by more than 1e-4 of the largest; ToolError where onnx-ir is not installed.
    """
    path = Path(path)
    answers = asked(path, samples) if check else None  # first, so that two copies of the weights never lie beside each other
    network = _Import(path, loaded(path)).network()
    if answers is not None:
        gc.collect()  # the file's graph is full of cycles
        network.notes = (*network.notes, *compared(path, network, answers))
    if network.notes:
        warnings.warn(f"{path}: {'; '.join(network.notes)}", OverqWarning, stacklevel=2)
    return network


class _Import:
    """One file on its way to a network."""

    def __init__(self, path: Path, model: Any) -> None:
        self.path, self.graph = path, model.graph
        self.opset = next((v for k, v in model.opset_imports.items() if k in ("", "ai.onnx")), 0)
        self.values: dict[str, Value] = {}
        self.steps: list[Step] = []
        self.modules: dict[str, nn.Module] = {}
        self.buffers: dict[str, Tensor] = {}
        self.names: set[str] = set()
        self.notes: list[str] = []
        self.outputs: dict[str, str] = {}

    def network(self) -> OnnxNetwork:
        if self.opset < OLDEST:
            raise InputError(f"{self.path}: opset {self.opset}; opsets from {OLDEST} on are read")
        self._refuse_unknown()
        inputs = [v for v in self.graph.inputs if v.name not in self.graph.initializers]
        for value in inputs:
            self.values[value.name] = Computed(value.name, None if value.shape is None else value.shape.rank())
        for node in self.graph:
            try:
                self._node(node)
            except UnsupportedError as error:
                raise UnsupportedError(
                    f"{self.path}: operator {node.op_type} (node {node.name or node.outputs[0].name!r}): {error}"
                ) from error
            except (KeyError, TypeError, ValueError, RuntimeError, IndexError, AssertionError) as error:
                what = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
                raise InputError(f"{self.path}: operator {node.op_type} (node {node.name!r}) makes no sense: {what}") from error
        return self._assembled([v.name for v in inputs], [v.name for v in self.graph.outputs])

    def _refuse_unknown(self) -> None:
        def called(node: Any) -> str:
            return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"

        unknown = [node for node in self.graph if called(node) not in (*OPERATORS, "Constant", "Shape", "Size")]
        if unknown:
            counts = Counter(map(called, unknown))
            first = called(unknown[0])
            others = ", ".join(f"{name} ({count})" for name, count in counts.items() if name != first)
            more = f"; nor have {others}" if others else ""
            many = f"{counts[first]} node{'s' if counts[first] > 1 else ''}"
            raise UnsupportedError(f"{self.path}: operator {first} (node {unknown[0].name!r}, {many}) has no counterpart here{more}")

    def _value(self, value: Any) -> Value:
        """An initializer is read when it is used; what a single node uses is not kept: a large file is in memory once."""
        if value.name in self.values or value.name not in self.graph.initializers:
            return self.values[value.name]
        tensor = tensor_of(self.graph.initializers[value.name].const_value, f"{self.path}: {value.name!r}")
        if len(value.uses()) > 1:
            self.values[value.name] = tensor
        return tensor

    def _node(self, node: Any) -> None:
        inputs: list[Value] = [None if v is None else self._value(v) for v in node.inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        outputs = [v for v in node.outputs if v.name]
        used = [v for v in outputs if v.uses() or v in self.graph.outputs]
        given = attributes(node) | {"real": outputs[0].dtype is not None and outputs[0].dtype.is_floating_point()}
        spec = Spec(node.op_type, self.opset, given, tuple(inputs), len(used) or 1)
        if node.op_type == "Constant":
            self.values[outputs[0].name] = _constant(spec)
            return
        computed = [v for v in inputs if isinstance(v, Computed)]
        extents = bool(computed) and all(v.extents for v in computed) and node.op_type in EXTENTS
        if isinstance(inputs[0], Tensor) and inputs[0].ndim > 1 and node.op_type not in NUMBERS:
            extents = False  # a constant tensor that takes a computed shape
        if node.op_type == "Gather" and (known := self._known_extent(node, inputs[1])) is not None:
            self.values[outputs[0].name] = known
            return
        if node.op_type == "ConstantOfShape":  # a list of ints only where it is one: exporters compute shapes with it
            extents = extents and _rank(outputs[0], "", []) == 1 and not given["real"]
        if node.op_type in ("Shape", "Size"):
            run: Any = _shape(spec) if node.op_type == "Shape" else lambda x: x.numel()
            extents = True
        else:
            run = (EXTENTS if extents else OPERATORS)[node.op_type](spec)
            if not extents and node.op_type in NUMBERS and any(v.extents for v in computed):
                run = _with_numbers(run)
        if not computed:
            self._fold(run, inputs, outputs, node.op_type)
            return
        if node.op_type == "QuantizeLinear" and not self.notes:
            self.notes.append("the file is quantized: its QuantizeLinear and DequantizeLinear were left out of the activations")
        first = isinstance(inputs[0], Computed) and inputs[0].extents and node.op_type not in ("ConstantOfShape", "Range", *NUMBERS)
        if not extents and (first or (any(v.extents for v in computed) and node.op_type not in (*LISTS, *NUMBERS))):
            raise UnsupportedError("it computes with the extents of a tensor")
        name = ""
        if isinstance(run, nn.Module):
            name = self._named(node.name or outputs[0].name)
            self.modules[name] = run
            self.outputs[name] = outputs[0].name
            arguments = [("value", v.name) for v in computed[:1]]
        else:
            arguments = [self._argument(node.op_type, i, v, extents) for i, v in enumerate(inputs)]
        count = max(i for i, v in enumerate(outputs) if v in used or i == 0) + 1
        made = tuple(v.name for v in outputs[:count])
        self.steps.append(Step(None if name else run, name, tuple(arguments), made))
        for value in outputs[:count]:
            self.values[value.name] = Computed(value.name, _rank(value, node.op_type, inputs), extents)

    def _known_extent(self, node: Any, index: Value) -> Tensor | None:
        """What the file itself says of an extent that is looked up in a tensor's shape."""
        source = node.inputs[0].producer()
        if source is None or source.op_type != "Shape" or source.attributes or not isinstance(index, Tensor) or index.numel() != 1:
            return None
        shape, place = source.inputs[0].shape, int(index)
        if shape is None or not -shape.rank() <= place < shape.rank() or not isinstance(shape[place], int):
            return None
        return torch.full(index.shape, shape[place])

    def _argument(self, op: str, index: int, value: Value, extents: bool) -> tuple[str, Any]:
        if isinstance(value, Computed):
            return "value", value.name
        if value is None:
            return "is", None
        if extents:
            return "is", value.tolist()
        if op in LISTS and (index > 0 or op in ("ConstantOfShape", "Range")):
            return "is", value.flatten().tolist()
        if op in NUMBERS and value.numel() == 1 and value.ndim <= 1:
            return "is", value.item()
        name = self._named(f"constant_{len(self.buffers)}")
        self.buffers[name] = value
        return "buffer", name

    def _fold(self, run: Any, inputs: list[Value], outputs: list[Any], op: str) -> None:
        with torch.no_grad():
            given: list[Any] = [
                v.flatten().tolist() if isinstance(v, Tensor) and op in LISTS and (i or op in ("ConstantOfShape", "Range")) else v
                for i, v in enumerate(inputs)
            ]
            made = run(given[0]) if isinstance(run, nn.Module) else run(*given)
        for output, tensor in zip(outputs, made if isinstance(made, (tuple, list)) and op != "Shape" else [made], strict=False):
            self.values[output.name] = tensor if isinstance(tensor, Tensor) else torch.tensor(tensor)

    def _named(self, wanted: str) -> str:
        name = re.sub(r"\W+", "_", wanted).strip("_") or "step"
        name = f"n{name}" if name[0].isdigit() or hasattr(OnnxNetwork, name) or name in ("steps", "notes", "input_names") else name
        base, count = name, 1
        while name in self.names:
            name, count = f"{base}_{count}", count + 1
        self.names.add(name)
        return name

    def _assembled(self, inputs: list[str], outputs: list[str]) -> OnnxNetwork:
        for name in outputs:
            if not isinstance(self.values.get(name), Computed):
                raise InputError(f"{self.path}: its output {name!r} does not depend on an input")
        network = (OnnxNetwork if len(inputs) == 1 else OnnxNetworkOfSeveral)(inputs, outputs)
        for name, module in self.modules.items():
            network.add_module(name, module)
        for name, tensor in self.buffers.items():
            network.register_buffer(name, tensor.clone())  # the file's own memory ends with its import
        last: dict[str, int] = {}
        for i, step in enumerate(self.steps):
            last.update({value: i for kind, value in step.arguments if kind == "value"})
        gone: dict[int, list[str]] = {}
        for name, i in last.items():
            if name not in outputs:
                gone.setdefault(i, []).append(name)
        network.steps = tuple(Step(s.run, s.module, s.arguments, s.made, tuple(gone.get(i, ()))) for i, s in enumerate(self.steps))
        network.notes = tuple(self.notes)
        network.origin = Origin(self.path.resolve(), digest(self.path), self.outputs)
        return network.eval()


def _rank(value: Any, op: str, inputs: list[Value]) -> int | None:
    """How many dims an output has: as the file tells or shape inference found, else what layers and operators on single values make."""
    if value.shape is not None:
        return value.shape.rank()
    first, second = (*inputs, None, None)[:2]
    if op in ("Conv", "ConvTranspose") and isinstance(second, Tensor):
        return second.ndim
    if op == "Gemm":
        return 2
    keeps = op in KEEPING and isinstance(first, Computed)
    return first.rank if keeps and isinstance(first, Computed) else None


def _with_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Extents as operands beside tensors."""

    def number(value: Any) -> Any:
        return (value[0] if len(value) == 1 else torch.tensor(value)) if isinstance(value, list) else value

    return lambda *values: function(*map(number, values))


def _constant(spec: Spec) -> Tensor:
    for name, value in spec.attributes.items():
        if name == "value":
            return value
        if name in ("value_float", "value_floats", "value_int", "value_ints"):
            return torch.tensor(value)
    raise UnsupportedError(f"a constant given as {', '.join(spec.attributes)}")


def _shape(spec: Spec) -> Callable[[Any], Any]:
    value = spec.input(0)
    start, end = spec.get("start", 0), spec.get("end")
    if isinstance(value, Computed) and value.extents:
        return lambda x: [len(x)] if isinstance(x, list) else []
    if isinstance(value, Computed) and value.rank is not None:
        places = range(value.rank)[start:end]
        return lambda x: [x.shape[i] for i in places]
    return lambda x: list(x.shape)[start:end]
