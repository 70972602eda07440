"""Float64 between the quantizers of an exported graph, so that what a sum or a batch norm rounds does not decide an activation's level.

Every operator that onnxruntime's CPU provider has in float64 gets it; others get float32 and give it back. Which inputs and outputs of an
operator are real numbers of one type, its schema tells.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from overq.exchange.overwriting import DOMAIN, REDUCE_AXES
from overq.exchange.reading import library

WIDE = set(
    """Abs Add ArgMax BatchNormalization Ceil Clip Concat Cos CumSum DepthToSpace Div Dropout Einsum Equal Exp Expand Flatten Floor Gather
    GatherElements GatherND Gemm Greater GreaterOrEqual Identity IsNaN LayerNormalization Less LessOrEqual Log LogSoftmax MatMul Max MaxPool
    Min Mish Mod Mul Neg Pad Pow Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Round ScatterND Shape Sigmoid Sign Sin Size Slice Softmax SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh
    Tile TopK Transpose Trilu Unsqueeze Where
    """.split()  # noqa: SIM905
)
REWRITTEN = ("GlobalAveragePool", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu")  # which it lacks, but not what they are made of
SMALL = 1 << 12  # numbers of a constant that is stored in float64; larger ones are cast when the file is loaded


def widened(graph: Any, opset: int, functions: tuple[str, ...]) -> None:
    """Make the graph compute in float64, in place. functions: of ours, whose outputs have it, by how their names begin."""
    kind = library("onnx_ir").DataType.FLOAT
    made = (node for node in graph if node.domain == DOMAIN and node.op_type.startswith(functions))
    real = {id(value) for value in graph.inputs if value.dtype == kind and not value.is_initializer()}
    _Widening(graph, opset, {id(value) for node in made for value in node.outputs}, real).run()


class _Widening:
    """One graph: `wide` values are float64 in it, `real` ones float32 and computed, `still` ones float32 and constant; by identity."""

    def __init__(self, graph: Any, opset: int, wide: set[int], real: set[int]) -> None:
        self.ir, self.schemas = library("onnx_ir"), library("onnx.defs")
        self.graph, self.opset = graph, opset
        self.wide, self.real, self.still = wide, real, set[int]()
        self.made: dict[tuple[Any, bool], Any] = {}

    def run(self) -> None:
        for value in self.graph.initializers.values():
            if value.dtype in (self.ir.DataType.FLOAT, self.ir.DataType.DOUBLE):
                (self.still if value.dtype == self.ir.DataType.FLOAT else self.wide).add(id(value))
        for node in list(self.graph):
            self._node(node)
        for place, value in enumerate(self.graph.outputs):
            if id(value) in self.wide:
                self.graph.outputs[place] = self._output(value)

    def _node(self, node: Any) -> None:
        if node.domain not in ("", "ai.onnx"):
            return  # functions of ours: who makes them says what they give
        if node.op_type == "Constant":
            given = next(iter(node.attributes.values()))
            if given.name in ("value_float", "value_floats") or getattr(given.value, "dtype", None) == self.ir.DataType.FLOAT:
                self.still.add(id(node.outputs[0]))
            return
        if node.op_type == "Cast":
            if node.attributes["to"].value == self.ir.DataType.FLOAT:
                (self.real if self._computed(node.inputs[0]) else self.still).add(id(node.outputs[0]))
            return
        slots = self._slots(node)
        reals = [i for i, value in enumerate(node.inputs) if value is not None and i in slots and self._known(value)]
        if not any(self._computed(node.inputs[i]) for i in reals):
            self.still |= {id(value) for value in self._given(node)}
            if not reals:
                self.real |= {id(value) for value in node.outputs if value.dtype == self.ir.DataType.FLOAT}  # as of ConstantOfShape
            return
        if node.op_type in REWRITTEN and self._rewritten(node):
            return
        wide = node.op_type in WIDE
        for i in reals:
            node.replace_input_with(i, self.cast(node.inputs[i], wide, node))
        for value in self._given(node):
            (self.wide if wide else self.real).add(id(value))
            if wide and value.type is not None:
                value.type = self.ir.TensorType(self.ir.DataType.DOUBLE)

    def _known(self, value: Any) -> bool:
        return id(value) in self.wide or id(value) in self.real or id(value) in self.still

    def _computed(self, value: Any) -> bool:
        return not value.is_initializer() and id(value) not in self.still

    def _schema(self, node: Any) -> Any:
        return self.schemas.get_schema(node.op_type, self.opset, "")

    def _slots(self, node: Any) -> set[int]:
        """Inputs that may be real numbers."""
        formal = self._schema(node).inputs
        last = len(formal) - 1
        return {i for i in range(len(node.inputs)) if formal and not formal[min(i, last)].type_str.startswith("tensor(int")}

    def _given(self, node: Any) -> list[Any]:
        """Outputs of a type that an input's real numbers have."""
        schema = self._schema(node)
        real = {schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i, value in enumerate(node.inputs)
                if value is not None and self._known(value)}  # fmt: skip
        last = len(schema.outputs) - 1
        return [value for i, value in enumerate(node.outputs) if schema.outputs[min(i, last)].type_str in real]

    def cast(self, value: Any, wide: bool, before: Any) -> Any:
        """The value as float64, or as float32; each made once."""
        if (id(value) in self.wide) == wide:
            return value
        key = id(value), wide
        if key not in self.made:
            held = value.const_value if wide and value.is_initializer() else None
            if held is not None and held.size <= SMALL:
                self.made[key] = self._constant(f"{value.name}.double", np.asarray(held.numpy(), np.float64))
            else:
                kind = self.ir.DataType.DOUBLE if wide else self.ir.DataType.FLOAT
                node = self.ir.node("Cast", [value], {"to": kind})
                self._insert(value, node, before)
                self.made[key] = node.outputs[0]
            (self.wide if wide else self.real).add(id(self.made[key]))
        return self.made[key]

    def _insert(self, value: Any, node: Any, before: Any) -> None:
        """As early as the value is there, since others may read the cast as well."""
        producer = value.producer()
        if producer is not None and producer.graph is self.graph:
            self.graph.insert_after(producer, node)
        elif len(self.graph):
            self.graph.insert_before(self.graph[0], node)

    def _constant(self, name: str, array: np.ndarray) -> Any:
        taken, base, count = self.graph.initializers, name, 1
        while name in taken:
            name, count = f"{base}_{count}", count + 1
        tensor = self.ir.tensor(array, name=name)
        value = self.ir.Value(name=name, const_value=tensor, type=self.ir.TensorType(tensor.dtype), shape=tensor.shape)
        self.graph.register_initializer(value)
        return value

    def _output(self, value: Any) -> Any:
        """Of the graph: float32 under the old name."""
        name = value.name
        node = self.ir.node("Cast", [value], {"to": self.ir.DataType.FLOAT})
        self.graph.append(node)
        value.name, made = f"{name}.double", node.outputs[0]
        made.name, made.type, made.shape = name, self.ir.TensorType(self.ir.DataType.FLOAT), value.shape
        value.type = self.ir.TensorType(self.ir.DataType.DOUBLE)
        return made

    def number(self, value: float) -> Any:
        key = f"number {value}", True
        if key not in self.made:
            self.made[key] = self._constant("number.double", np.array(value))
        return self.made[key]

    def _rewritten(self, node: Any) -> bool:
        """Replace the node by operators that float64 has; False where that cannot be."""
        made: list[Any] = []

        def op(kind: str, *inputs: Any, **attributes: Any) -> Any:
            given = [self.number(value) if isinstance(value, float) else value for value in inputs]
            made.append(self.ir.node(kind, given, attributes or None))
            return made[-1].outputs[0]

        rank = None if node.inputs[0].shape is None else node.inputs[0].shape.rank()
        if node.op_type == "GlobalAveragePool" and rank is None:
            return False  # it stays in float32
        x = [self.cast(value, True, node) for value in node.inputs]
        values = {name: attribute.value for name, attribute in node.attributes.items()}
        if node.op_type == "GlobalAveragePool":
            axes = list(range(2, rank or 0))
            if self.opset >= REDUCE_AXES:
                y = op("ReduceMean", x[0], self._constant("axes", np.array(axes)), keepdims=1)
            else:
                y = op("ReduceMean", x[0], axes=axes, keepdims=1)
        elif node.op_type == "HardSigmoid":
            y = _gate(op, x[0], float(values.get("alpha", 0.2)), float(values.get("beta", 0.5)))
        elif node.op_type == "HardSwish":
            y = op("Mul", x[0], _gate(op, x[0], 1 / 6, 0.5))
        else:
            slope = x[1] if node.op_type == "PRelu" else float(values.get("alpha", 0.01))
            y = op("Where", op("Less", x[0], 0.0), op("Mul", x[0], slope), x[0])
        self.graph.insert_before(node, made)
        replaced(self.graph, node, y, self.ir.DataType.DOUBLE)
        self.wide.add(id(y))
        return True


def replaced(graph: Any, node: Any, y: Any, kind: Any) -> None:
    """Put y, of that data type, in the place of the node's only output, under its name, and remove the node."""
    old = node.outputs[0]
    for user, index in list(old.uses()):
        user.replace_input_with(index, y)
    for place, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[place] = y
    y.name, y.type, y.shape = old.name, library("onnx_ir").TensorType(kind), old.shape
    old.name = f"{old.name}.before"
    graph.remove(node, safe=True)


def _gate(op: Any, x: Any, alpha: float, beta: float) -> Any:
    return op("Clip", op("Add", op("Mul", x, alpha), beta), 0.0, 1.0)
