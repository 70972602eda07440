"""A quantized network that came from an ONNX file, back into that file's own graph: its layers' inputs and weights are replaced,
everything else (names, shapes, operators of any kind) stays as the file has it."""

from __future__ import annotations

from typing import Any

from torch import nn

from overq.errors import InputError
from overq.exchange.exact import IN_FLOAT64
from overq.exchange.layers_out import INT4_OPSET, LayersOut
from overq.exchange.network import OnnxNetwork, Origin, digest
from overq.exchange.overwriting import OPSET
from overq.exchange.reading import library, opened
from overq.exchange.widening import replaced, widened
from overq.nn.quantized import Quantized

OLDEST = 11  # of overwrite's own operators: Clip with inputs


def edited(network: OnnxNetwork, layers: dict[str, Quantized], out: LayersOut) -> Any:
    """onnx_ir.Model. layers: the quantized ones, by dotted name. InputError where the file is not what the network was read from."""
    origin = network.origin
    if origin is None:
        raise InputError("the network does not know its ONNX file: read it again with overq.from_onnx")
    if not origin.path.is_file() or digest(origin.path) != origin.sha256:
        raise InputError(f"{origin.path}: it changed or went since the network was read; the export keeps its graph")
    model = _of_opset(opened(origin.path), origin, out)
    out.opset = model.opset_imports[""]
    places = {node.outputs[0].name: node for node in model.graph if node.outputs}
    for name, layer in layers.items():
        _replaced(model.graph, places[origin.outputs[name.partition(".")[0]]], name, layer, out)
    library("onnx_ir.passes.common").RemoveUnusedNodesPass()(model)  # with the float weights
    for value in out.initializers.values():
        model.graph.register_initializer(value)
    for function in out.functions.values():
        model.functions[function.identifier()] = function
    if out.form == "exact":
        widened(model.graph, out.opset, IN_FLOAT64)
    return model


def _of_opset(model: Any, origin: Origin, out: LayersOut) -> Any:
    """The file's graph in an opset that has what is written; as it is where that needs no newer one."""
    version = model.opset_imports.get("", 0)
    wanted = INT4_OPSET if out.opset == INT4_OPSET else OPSET if version < OLDEST else version
    if version >= wanted:
        return model
    ir = library("onnx_ir")
    try:
        return ir.from_proto(library("onnx.version_converter").convert_version(ir.to_proto(model), wanted))
    except Exception as error:  # onnx has an exception of its own for every operator that it cannot convert
        why = " ".join(str(error).split())[:120]
        if version < OLDEST:
            raise InputError(f"{origin.path}: opset {version} cannot be brought to {wanted}, which the export needs: {why}") from error
        out.opset = OPSET
        out.notes.append(f"weights of 4 bits have 8 in the file: its opset {version} cannot be brought to {wanted}")
        return model


def _replaced(graph: Any, node: Any, name: str, layer: Quantized, out: LayersOut) -> None:
    """One Conv, Gemm or MatMul with the layer's weights and input."""
    out.nodes = []
    linear = isinstance(layer, nn.Linear)

    def multiply(x: Any, weight: Any, bias: Any) -> Any:
        left_out = ("alpha", "beta") if node.op_type == "Gemm" else ()  # the layer's weight and bias hold them
        options = {key: attribute.value for key, attribute in node.attributes.items() if key not in left_out}
        if node.op_type == "MatMul":
            product = out.op("MatMul", x, weight)
            return product if bias is None else out.op("Add", product, bias)
        return out.op(node.op_type, x, weight, *([] if bias is None else [bias]), **options)

    y = out.product(node.inputs[0], name, layer, multiply, transposed=linear and not _transposed(node))
    graph.insert_before(node, out.nodes)
    replaced(graph, node, y, out.ir.DataType.DOUBLE if out.form == "exact" else out.ir.DataType.FLOAT)


def _transposed(node: Any) -> bool:
    """Whether the node's weight is [out, in]."""
    attribute = node.attributes.get("transB")
    return attribute is not None and bool(attribute.value)
