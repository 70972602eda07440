"""Every ONNX operator that is read, with its options, against onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from overq.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx_ir")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from overq.exchange import from_onnx  # noqa: E402
from overq.exchange.comparing import asked, compared  # noqa: E402
from overq.exchange.operators import OPERATORS  # noqa: E402

RNG = np.random.default_rng(0)


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def saved(path: Path, nodes: list[Any], shape: Any, constants: dict[str, np.ndarray], opset: int = 17, outputs: int = 1) -> Path:
    """A file whose input is x and whose outputs are y, y1, …"""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info(name) for name in ["y", "y1", "y2"][:outputs]],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


Case = tuple[str, tuple[int, ...], list[np.ndarray | None], dict[str, Any], int]
IMAGE, MATRIX, TOKENS = (2, 4, 9, 8), (3, 6), (2, 5, 6)


def case(op: str, shape: tuple[int, ...] = IMAGE, *constants: np.ndarray | None, opset: int = 17, **attributes: Any) -> Case:
    return op, shape, list(constants), attributes, opset


CASES: list[Case] = [
    case("Conv", IMAGE, real(6, 4, 3, 2), real(6), strides=[2, 1], pads=[1, 0, 1, 0]),
    case("Conv", IMAGE, real(6, 4, 3, 3), pads=[0, 1, 2, 1], dilations=[2, 1]),
    case("Conv", IMAGE, real(8, 2, 3, 3), real(8), group=2, auto_pad="SAME_UPPER"),
    case("Conv", IMAGE, real(4, 4, 4, 3), auto_pad="SAME_LOWER"),
    case("Conv", IMAGE, real(4, 4, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", IMAGE, real(4, 4, 3, 4), auto_pad="SAME_LOWER", strides=[2, 3]),
    case("Conv", IMAGE, real(4, 1, 3, 3), group=4, auto_pad="VALID"),
    case("Conv", (2, 4, 12), real(6, 4, 3), real(6), strides=[2], pads=[1, 0]),
    case("ConvTranspose", IMAGE, real(4, 3, 3, 3), real(3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    case("ConvTranspose", IMAGE, real(4, 2, 2, 2), strides=[2, 2], group=2),
    case("Gemm", MATRIX, real(6, 5), real(5), alpha=0.5, beta=2.0),
    case("Gemm", MATRIX, real(5, 6), transB=1),
    case("Gemm", MATRIX, real(5, 6), real(1), transB=1),
    case("Gemm", MATRIX, real(6, 5), real(3, 5)),
    case("Gemm", MATRIX, real(3, 5), transA=1),
    case("MatMul", TOKENS, real(6, 7)),
    case("MatMul", TOKENS, real(2, 6, 7)),
    case("BatchNormalization", IMAGE, real(4), real(4), real(4), np.abs(real(4)), epsilon=1e-3),
    case("BatchNormalization", MATRIX, real(6), real(6), real(6), np.abs(real(6))),
    case("InstanceNormalization", IMAGE, real(4), real(4)),
    case("LayerNormalization", TOKENS, real(6), real(6)),
    case("LayerNormalization", TOKENS, real(5, 6), axis=1, epsilon=1e-3),
    case("LRN", IMAGE, size=3, alpha=0.1),
    case("PRelu", IMAGE, real(4, 1, 1)),
    case("PRelu", IMAGE, real(1)),
    case("PRelu", IMAGE, real(9, 8)),
    *[
        case(op)
        for op in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Softsign", "LeakyRelu", "Elu", "Selu", "Celu", "HardSigmoid")
    ],
    *[case(op) for op in ("Neg", "Abs", "Exp", "Erf", "Reciprocal", "Floor", "Ceil", "Round", "Sin", "Cos", "Sign", "Identity", "Dropout")],
    case("Mish", opset=18),
    case("Gelu", opset=20),
    case("Gelu", opset=20, approximate="tanh"),
    case("LeakyRelu", alpha=0.3),
    case("Elu", alpha=0.7),
    case("HardSigmoid", alpha=0.3, beta=0.4),
    case("Clip", IMAGE, np.float32(0), np.float32(6)),
    case("Clip", IMAGE, None, np.float32(0.5)),
    case("Clip", IMAGE, np.float32(-0.5)),
    case("Clip", IMAGE, opset=10, min=-0.2, max=0.4),
    case("Clip", IMAGE),
    case("Softmax", TOKENS),
    case("Softmax", IMAGE, axis=1),
    case("Softmax", IMAGE, opset=11),
    case("Softmax", IMAGE, opset=11, axis=2),
    case("LogSoftmax", TOKENS, axis=1),
    case("MaxPool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 0]),
    case("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", kernel_shape=[2, 2], dilations=[2, 3]),
    case("MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", kernel_shape=[3, 3], pads=[0, 0, 1, 1]),
    case("MaxPool", kernel_shape=[2, 2]),
    case("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", kernel_shape=[3, 2], pads=[0, 0, 1, 1]),
    case("AveragePool", kernel_shape=[3, 2], pads=[0, 0, 1, 1], count_include_pad=1),
    case("AveragePool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    case("GlobalAveragePool"),
    case("GlobalMaxPool"),
    case("GlobalAveragePool", (2, 4, 9)),
    *[case(op, IMAGE, real(4, 1, 1)) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")],
    case("Add", IMAGE, real(1)),
    case("Mul", IMAGE, np.float32(0.3)),
    case("Pow", IMAGE, np.float32(2)),
    case("Concat", IMAGE, real(2, 3, 9, 8), axis=1),
    case("Concat", IMAGE, real(2, 4, 9, 2), axis=-1),
    case("Slice", IMAGE, ints(1, 2), ints(3, 9223372036854775807), ints(1, -1), ints(1, 2)),
    case("Slice", IMAGE, ints(-1), ints(-9223372036854775808), ints(3), ints(-2)),
    case("Slice", IMAGE, ints(1, 1), ints(2, 3)),
    case("Gather", IMAGE, ints(3, 0, -1), axis=1),
    case("Gather", IMAGE, np.array(2), axis=3),
    case("Gather", IMAGE, np.array([[0, 1], [2, -1]]), axis=1),
    case("Reshape", IMAGE, ints(0, -1)),
    case("Reshape", IMAGE, ints(2, 2, 2, 0 * 9 + 72)),
    case("Flatten"),
    case("Flatten", axis=2),
    case("Flatten", axis=0),
    case("Flatten", axis=-1),
    case("Transpose", perm=[0, 2, 3, 1]),
    case("Transpose"),
    case("Squeeze", (2, 1, 3, 1), ints(1, -1)),
    case("Squeeze", (2, 1, 3, 1)),
    case("Squeeze", (2, 1, 3, 1), opset=11, axes=[3]),
    case("Unsqueeze", MATRIX, ints(0, -1)),
    case("Unsqueeze", MATRIX, opset=11, axes=[1]),
    case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 0)),
    case("Pad", IMAGE, ints(0, 1, 1, 2, 0, 2, -1, 0), np.float32(0.7)),
    case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 1), mode="reflect"),
    case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 1), mode="edge"),
    case("Pad", IMAGE, ints(1, 2), None, ints(-1), opset=18),
    case("Pad", IMAGE, opset=10, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5),
    case("Expand", (1, 4, 1, 1), ints(2, 4, 3, 1)),
    case("Tile", MATRIX, ints(2, 3)),
    case("DepthToSpace", blocksize=2),
    case("DepthToSpace", blocksize=2, mode="CRD"),
    case("SpaceToDepth", (2, 4, 6, 8), blocksize=2),
    *[case(op, opset=13, axes=[2, 3]) for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")],
    case("ReduceMean", opset=13, axes=[-1], keepdims=0),
    case("ReduceMean", IMAGE, ints(2, 3), opset=18, keepdims=0),
    case("ReduceSum", IMAGE, ints(1)),
    case("ReduceSum", IMAGE),
    case("ReduceSumSquare", opset=13, axes=[1]),
    case("Resize", IMAGE, None, np.array([1, 1, 2, 3], np.float32), coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    case("Resize", IMAGE, None, np.array([1, 1, 2, 4], np.float32)),
    case("Resize", IMAGE, None, np.array([1, 1, 2, 2], np.float32), mode="linear"),
    case("Resize", IMAGE, None, None, ints(2, 4, 15, 5), mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    case("Resize", IMAGE, None, None, ints(2, 4, 15, 13), mode="linear", coordinate_transformation_mode="align_corners"),
    case("Resize", IMAGE, None, None, ints(2, 4, 18, 16), mode="cubic"),
    case("Einsum", TOKENS, real(6, 7), equation="bij,jk->bik"),
    case("ArgMax", axis=1),
    case("ArgMin", axis=-1, keepdims=0),
    case("Where", IMAGE),
    case("Mod", IMAGE, np.float32(0.7), fmod=1),
    case("Trilu", TOKENS, np.array(1)),
    case("Trilu", TOKENS, upper=0),
    case("CumSum", TOKENS, np.array(1)),
    case("GatherElements", MATRIX, np.array([[0, -1, 2, 1, 0, 0]]), axis=0),
]


def nodes_of(op: str, constants: list[np.ndarray | None], attributes: dict[str, Any]) -> tuple[list[Any], dict[str, np.ndarray]]:
    named = {f"c{i}": np.asarray(value) for i, value in enumerate(constants) if value is not None}
    inputs = ["x", *(f"c{i}" if value is not None else "" for i, value in enumerate(constants))]
    if op == "Where":
        zero = {"zero": np.zeros((), np.float32)}
        return [helper.make_node("Greater", ["x", "zero"], ["m"]), helper.make_node("Where", ["m", "x", "zero"], ["y"])], zero
    return [helper.make_node(op, inputs, ["y"], name="tried", **attributes)], named


@pytest.mark.parametrize("tried", CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_operator_gives_what_onnxruntime_gives(tried: Case, tmp_path: Path) -> None:
    op, shape, constants, attributes, opset = tried
    nodes, named = nodes_of(op, constants, attributes)
    path = saved(tmp_path / "m.onnx", nodes, shape, named, opset)
    assert from_onnx(path, torch.from_numpy(real(*shape))).notes == ()


def test_no_operator_goes_untried() -> None:
    elsewhere = {"Range", "Xor", "IsNaN", "Split", "Cast", "ConstantOfShape", "QuantizeLinear", "DequantizeLinear", "Equal", "Less",
    "Greater", "GreaterOrEqual",
                 "LessOrEqual", "And", "Or", "Not", "Sqrt", "Log"}  # fmt: skip
    assert set(OPERATORS) - {c[0] for c in CASES} == elsewhere - {c[0] for c in CASES}


MANY: dict[str, tuple[list[Any], dict[str, np.ndarray], int]] = {
    "Split in equal parts": ([helper.make_node("Split", ["x"], ["y", "y1"], axis=1)], {}, 13),
    "Split by an input": ([helper.make_node("Split", ["x", "s"], ["y", "y1"], axis=1)], {"s": ints(1, 3)}, 13),
    "Split by an attribute": ([helper.make_node("Split", ["x"], ["y", "y1"], axis=1, split=[3, 1])], {}, 11),
    "logic": (
        [helper.make_node("Less", ["x", "zero"], ["a"]), helper.make_node("Equal", ["x", "zero"], ["b"]),
         helper.make_node("Or", ["a", "b"], ["c"]),
         helper.make_node("GreaterOrEqual", ["x", "zero"], ["d"]), helper.make_node("And", ["c", "d"], ["e"]),
         helper.make_node("Not", ["e"], ["f"]),
         helper.make_node("LessOrEqual", ["x", "zero"], ["g"]), helper.make_node("And", ["f", "g"], ["h"]),
         helper.make_node("Cast", ["h"], ["y"], to=1), helper.make_node("Abs", ["x"], ["i"]), helper.make_node("Log", ["i"], ["j"]),
         helper.make_node("Sqrt", ["i"], ["k"]), helper.make_node("Add", ["j", "k"], ["y1"])],
        {"zero": np.zeros((), np.float32)}, 17,
    ),
    "shape arithmetic": (
        [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "i"], ["n"]),
         helper.make_node("Unsqueeze", ["n", "zero"], ["m"]),
         helper.make_node("Slice", ["s", "two", "four", "zero"], ["hw"]), helper.make_node("ReduceProd", ["hw"], ["area"], keepdims=0),
         helper.make_node("Unsqueeze", ["area", "zero"], ["p"]), helper.make_node("Concat", ["m", "rest", "p"], ["shape"], axis=0),
         helper.make_node("Reshape", ["x", "shape"], ["y"]), helper.make_node("ConstantOfShape", ["hw"], ["w"]),
         helper.make_node("Add", ["x", "w"], ["y1"])],
        {"i": np.array(0), "zero": ints(0), "two": ints(2), "four": ints(4), "rest": ints(-1)}, 13,
    ),
    "conditions": (
        [helper.make_node("IsNaN", ["x"], ["a"]), helper.make_node("Less", ["x", "zero"], ["b"]),
         helper.make_node("Xor", ["a", "b"], ["c"]),
         helper.make_node("Where", ["c", "x", "zero"], ["y"]), helper.make_node("Cast", ["b"], ["y1"], to=7)],
        {"zero": np.zeros((), np.float32)}, 17,
    ),
    "a shape with a choice, as exporters write expand": (
        [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Equal", ["w", "minus"], ["e"]),
         helper.make_node("Where", ["e", "s", "w"], ["t"]),
         helper.make_node("Mod", ["s", "five"], ["u"]), helper.make_node("Not", ["e"], ["f"]), helper.make_node("Max", ["t", "s"], ["m"]),
         helper.make_node("Min", ["m", "s"], ["n"]), helper.make_node("Expand", ["x", "n"], ["y"]),
         helper.make_node("ConstantOfShape", ["u"], ["y1"])],
        {"w": ints(2, -1, 9, -1), "minus": ints(-1, -1, -1, -1), "five": ints(5)}, 13,
    ),
    "the root of an extent as a factor": (
        [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Slice", ["s", "three", "four"], ["n"]),
         helper.make_node("Cast", ["n"], ["f"], to=1),
         helper.make_node("Sqrt", ["f"], ["r"]), helper.make_node("Div", ["one", "r"], ["d"]), helper.make_node("Mul", ["x", "d"], ["y"]),
         helper.make_node("Sub", ["f", "x"], ["y1"])],
        {"three": ints(3), "four": ints(4), "one": np.ones(1, np.float32)}, 17,
    ),
    "a range of an extent": (
        [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "i"], ["n"]),
         helper.make_node("Range", ["zero", "n", "one"], ["r"]),
         helper.make_node("Cast", ["r"], ["f"], to=1), helper.make_node("Add", ["x", "f"], ["y"]),
         helper.make_node("Sub", ["x", "f"], ["y1"])],
        {"i": np.array(3), "zero": np.array(0), "one": np.array(1)}, 13,
    ),
    "constants folded": (
        [helper.make_node("Constant", [], ["a"], value_floats=[1.0, 2.0, 3.0, 4.0]), helper.make_node("Reshape", ["a", "s"], ["b"]),
         helper.make_node("Mul", ["b", "b"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"]),
         helper.make_node("Sub", ["c", "x"], ["y1"])],
        {"s": ints(4, 1, 1)}, 17,
    ),
    "integer weights": (
        [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"], axis=0), helper.make_node("Conv", ["x", "v"], ["y"]),
         helper.make_node("Relu", ["x"], ["y1"])],
        {"w": RNG.integers(-127, 127, (3, 4, 1, 1)).astype(np.int8), "s": np.abs(real(3)), "z": np.zeros(3, np.int8)}, 13,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MANY)
def test_operators_together(name: str, tmp_path: Path) -> None:
    nodes, constants, opset = MANY[name]
    path = saved(tmp_path / "m.onnx", nodes, IMAGE, constants, opset, outputs=2)
    assert from_onnx(path, torch.from_numpy(real(*IMAGE))).notes == ()


REFUSED: dict[str, tuple[list[Any], dict[str, np.ndarray], str]] = {
    "unknown operators": (
        [helper.make_node("Hardmax", ["x"], ["a"], name="h1"), helper.make_node("Hardmax", ["a"], ["b"]),
         helper.make_node("Det", ["b"], ["y"])], {},
        r"m\.onnx: operator Hardmax \(node 'h1', 2 nodes\) has no counterpart here; nor have Det \(1\)$",
    ),
    "another domain": ([helper.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft")], {}, r"operator com\.microsoft\.FusedConv"),
    "weights that are computed": ([helper.make_node("Conv", ["x", "x"], ["y"], name="c")], {},
                                  r"operator Conv \(node 'c'\): its weights are computed while it runs$"),
    "an option": ([helper.make_node("Reshape", ["x", "s"], ["y"], allowzero=1)], {"s": ints(2, -1)},
    r"operator Reshape .*: option allowzero=1$"),
    "indices of a maximum": ([helper.make_node("MaxPool", ["x"], ["y", "y1"], kernel_shape=[2, 2])], {},
    r"operator MaxPool .*: option storage_order"),
    "nearest of another kind": ([helper.make_node("Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="align_corners")],
                                {"s": np.array([1, 1, 2.5, 2], np.float32)}, r"operator Resize .*: option nearest_mode"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_counterpart_is_named(name: str, tmp_path: Path) -> None:
    nodes, constants, words = REFUSED[name]
    path = saved(tmp_path / "m.onnx", nodes, IMAGE, constants, outputs=2 if "indices" in name else 1)
    with pytest.raises(InputError, match=words):
        from_onnx(path)


def test_a_network_that_parts_from_onnxruntime_is_refused(tmp_path: Path) -> None:
    nodes, constants = nodes_of("Conv", [real(6, 4, 3, 3), real(6)], {})
    path = saved(tmp_path / "m.onnx", nodes, IMAGE, constants)
    network = from_onnx(path)
    network.tried.bias.data += 0.01  # type: ignore[operator, union-attr]
    with pytest.raises(InputError, match=r"m\.onnx: output 'y' differs from onnxruntime's by 0\.0"):
        compared(path, network, asked(path, None))
