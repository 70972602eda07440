"""to_onnx: a quantized network as an ONNX file that plain onnxruntime runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from overq.errors import InputError, OverqWarning
from overq.exchange.edit import edited
from overq.exchange.emit import emit
from overq.exchange.emitted import Emitted, shapes_of
from overq.exchange.exact import IN_FLOAT64
from overq.exchange.integers_out import Integers, emit_integers
from overq.exchange.layers_out import FORMS, INT4_OPSET, NIBBLE, LayersOut
from overq.exchange.network import OnnxNetwork
from overq.exchange.overwriting import DOMAIN, OPSET
from overq.exchange.reading import library
from overq.exchange.widening import widened
from overq.integer import integer_network
from overq.nn.convert import summary
from overq.nn.graph import read
from overq.nn.kinds import Input
from overq.nn.quantized import Quantized
from overq.output import staged

IR_VERSION = 8  # functions in a model: onnxruntime 1.10
IR_FOR_INT4 = 10
LARGEST = (1 << 31) - (1 << 20)  # bytes of one protobuf file


def to_onnx(model: nn.Module, path: str | Path, sample: Tensor | None = None, *, form: str = "exact") -> tuple[str, ...]:
    """Write a model of `overq.quantize` or `overq.load` as ONNX, whole or not at all; returns notes of what is not bit-equal.

    sample  an input [N, ...], to know shapes by; needless where `quantize` kept one, or the network came from an ONNX file
    form    exact: what the simulation computes, `overq::overwrite` as a function of standard operators, in opset 13
            integer: the network of `overq.integer` in integer operators, bit for bit: int64 scores, their unit in the file's metadata
            qdq: plain layers as QuantizeLinear and DequantizeLinear, weights of at most 4 bits as INT4 (opset 21)

    A network that `overq.from_onnx` read keeps its file's graph. Raises InputError, with the layer's or operation's name, for what has no
    ONNX form, and for a path that cannot be written.
    """
    path = Path(path)
    if form not in FORMS:
        raise InputError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
    facts, modules = summary(model), dict(model.named_modules())
    if called := next((report.name for report in facts.layers if report.name not in modules), None):
        raise InputError(f"{called!r} is a product that the model spells as a function, which has no ONNX form here")
    layers = {report.name: layer for report in facts.layers if isinstance(layer := modules[report.name], Quantized)}
    if isinstance(model, OnnxNetwork) and form != "integer":
        onnx_model, notes = _edited(model, layers, form)
    else:
        onnx_model, notes = _emitted(model, sample, form)
    data = checked(onnx_model)
    with staged(path) as temporary:
        temporary.write_bytes(data)
    if notes:
        warnings.warn(f"{path}: {'; '.join(notes)}", OverqWarning, stacklevel=2)
    return notes


def checked(model: Any) -> bytes:
    """The file's bytes, which the ONNX checker accepts."""
    ir = library("onnx_ir")
    proto = ir.to_proto(model)
    data = proto.SerializeToString()
    if len(data) > LARGEST:
        raise InputError(f"the ONNX file would have {len(data):,} bytes, more than one protobuf file may: quantize a smaller network")
    try:
        library("onnx.checker").check_model(proto, full_check=True)
    except Exception as error:  # of the checker and of its shape inference, each with its own
        raise InputError(f"the ONNX checker refuses the graph: {' '.join(str(error).split())[:200]}") from error
    return data


def _notes(out: LayersOut, layers: dict[str, Quantized]) -> tuple[str, ...]:
    if out.form != "qdq":
        return tuple(out.notes)
    plain = sum(not layer.format.cascade for layer in layers.values())
    ties = [f"{plain} plain layers round ties to even, where the simulation rounds them up"] if plain else []
    return (*out.notes, *ties)


def _edited(model: OnnxNetwork, layers: dict[str, Quantized], form: str) -> tuple[Any, tuple[str, ...]]:
    out = LayersOut(form, _opset(layers.values(), form))
    made = edited(model, layers, out)
    return _finished(made, out), _notes(out, layers)


def _finished(model: Any, out: LayersOut) -> Any:
    if out.functions:
        model.graph.opset_imports[DOMAIN] = 1
    for function in model.functions.values():
        function.graph.opset_imports[""] = model.graph.opset_imports[""]
    model.ir_version = max(model.ir_version, IR_FOR_INT4 if out.opset >= INT4_OPSET else IR_VERSION)
    model.producer_name = "overq"
    return model


def _opset(layers: Iterable[Quantized], form: str) -> int:
    """The oldest that has what is written."""
    return INT4_OPSET if form == "qdq" and any(layer.weight_bits <= NIBBLE for layer in layers) else OPSET


def _emitted(model: nn.Module, sample: Tensor | None, form: str) -> tuple[Any, tuple[str, ...]]:
    sample = getattr(model, "overq_example", None) if sample is None else sample
    if not isinstance(sample, Tensor):
        raise InputError("give to_onnx a sample, one input tensor: the model does not hold one")
    graph = read(model)
    names = [node.name for node in graph.nodes if isinstance(node.op, Input)]
    if len(names) != 1:
        raise InputError(f"the model has {len(names)} inputs ({', '.join(names)}): ONNX is written for models with one")
    layers = {node.target: node.module for node in graph.live() if isinstance(node.module, Quantized)}
    out = Integers(form) if form == "integer" else Emitted(form, _opset(layers.values(), form))
    home = next(model.parameters())
    out.shapes = shapes_of(graph, sample.to(home.device, home.dtype))
    ir = out.ir

    def declared(name: str) -> Any:
        return ir.Shape(["n" if size is None else size for size in out.shapes[name]])

    x = ir.Value(name=names[0], type=ir.TensorType(ir.DataType.FLOAT), shape=declared(names[0]))
    kind = ir.DataType.FLOAT
    if isinstance(out, Integers):
        network, kind = integer_network(model, check=False), ir.DataType.INT64
        y = emit_integers(network, out, x)
    else:
        y = emit(graph, out, {names[0]: x})
    result = out.op("Identity", y) if y is x or y.producer() is None else y
    result.name, result.type, result.shape = "output", ir.TensorType(kind), declared(graph.nodes[-1].name)
    made = ir.Graph(
        [x], [result], nodes=out.nodes, initializers=list(out.initializers.values()), opset_imports={"": out.opset}, name="overq"
    )
    if form == "exact":
        widened(made, out.opset, IN_FLOAT64)
    whole = ir.Model(made, ir_version=IR_VERSION, functions=list(out.functions.values()))
    if isinstance(out, Integers):
        whole.metadata_props["overq.unit"] = repr(network.unit)
    return _finished(whole, out), _notes(out, layers)
