"""A quantized network that came from an ONNX file, back into that file's own graph: its layers' inputs and weights are replaced,
everything else (names, shapes, operators of any kind) stays as the file has it."""

from __future__ import annotations

from typing import Any

from torch import nn

from overq.errors import InputError
from overq.exchange.layers_out import INT4_OPSET, OPSET, LayersOut
from overq.exchange.network import OnnxNetwork, Origin, digest
from overq.exchange.reading import library, opened
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
    places = {node.outputs[0].name: node for node in model.graph if node.outputs}
    for name, layer in layers.items():
        _replaced(model.graph, places[origin.outputs[name.partition(".")[0]]], name, layer, out)
    library("onnx_ir.passes.common").RemoveUnusedNodesPass()(model)  # with the float weights
    for value in out.initializers.values():
        model.graph.register_initializer(value)
    for function in out.functions.values():
        model.functions[function.identifier()] = function
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
    x = out.input(node.inputs[0], name, layer)
    weight = out.weight(name, layer, transposed=linear and not _transposed(node))
    bias = out.bias(name, layer)
    graph.insert_before(node, out.nodes)
    node.replace_input_with(0, x)
    node.replace_input_with(1, weight)
    if node.op_type == "MatMul":
        if bias is not None:
            _added(graph, node, bias)
        return
    if node.op_type == "Gemm":
        for attribute in ("alpha", "beta"):
            node.attributes.pop(attribute, None)  # the layer's weight and bias hold them
    if bias is not None:
        node.resize_inputs(3)
        node.replace_input_with(2, bias)


def _transposed(node: Any) -> bool:
    """Whether the node's weight is [out, in]."""
    attribute = node.attributes.get("transB")
    return attribute is not None and bool(attribute.value)


def _added(graph: Any, node: Any, bias: Any) -> None:
    """A bias that correction gave to a product without one."""
    ir = library("onnx_ir")
    product = node.outputs[0]
    added = ir.node("Add", [product, bias])
    name = product.name
    users = list(product.uses())
    for user, index in users:
        if user is not added:
            user.replace_input_with(index, added.outputs[0])
    graph.insert_after(node, added)
    for place, value in enumerate(graph.outputs):
        if value is product:
            graph.outputs[place] = added.outputs[0]
    product.name, added.outputs[0].name = f"{name}_product", name
    added.outputs[0].type, added.outputs[0].shape = product.type, product.shape
