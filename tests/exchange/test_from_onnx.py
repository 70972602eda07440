"""ONNX networks all the way: read, compared, quantized, read again by what reads networks; damaged files are one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import overq
from overq.errors import InputError, OverqError, OverqWarning

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx_ir")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from overq.exchange import from_onnx  # noqa: E402
from overq.exchange.mapped import without_weights  # noqa: E402
from overq.integer import integer_network  # noqa: E402
from overq.nn.graph import read  # noqa: E402
from overq.nn.kinds import Unknown  # noqa: E402
from overq.nn.streams import Streams  # noqa: E402
from overq.spec import Format  # noqa: E402
from overq.study.models import load_model  # noqa: E402


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (8, 1, 3, 3), "wf": (5, 8), "bf": (5,)}
    found = {name: (0.3 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    found |= {name: np.abs(rng.standard_normal(8)).astype(np.float32) + 0.3 for name in ("g", "h", "m", "v")}
    return found | {
        "low": np.float32(0), "high": np.float32(6), "zero": np.array([0], np.int64), "rest": np.array([-1], np.int64),
        "first": np.array(0),
    }  # fmt: skip


def residual(batch: Any = "n") -> Any:
    """Stem, residual block with batch norm, depthwise layer with ReLU6, global pool, exported flatten, classifier."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="/stem/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="/block/conv/Conv", auto_pad="SAME_UPPER"),
        helper.make_node("BatchNormalization", ["c", "g", "h", "m", "v"], ["d"]),
        helper.make_node("Add", ["d", "b"], ["e"]),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Conv", ["f", "w3"], ["i"], name="/depth/Conv", group=8, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["i", "low", "high"], ["j"]),
        helper.make_node("GlobalAveragePool", ["j"], ["k"]),
        helper.make_node("Shape", ["k"], ["s"]),
        helper.make_node("Gather", ["s", "first"], ["t"]),
        helper.make_node("Unsqueeze", ["t", "zero"], ["u"]),
        helper.make_node("Concat", ["u", "rest"], ["r"], axis=0),
        helper.make_node("Reshape", ["k", "r"], ["l"]),
        helper.make_node("Gemm", ["l", "wf", "bf"], ["y"], name="/fc/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 12, 12])], [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights().items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(residual(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_a_network_is_quantized_reordered_and_run_in_integers(path: Path) -> None:
    network = from_onnx(path)
    assert network.notes == ()
    assert [type(m) for m in network.children() if not isinstance(m, nn.ReLU)] == [
        nn.Conv2d, nn.Conv2d, nn.BatchNorm2d, nn.Conv2d, nn.ReLU6, nn.AdaptiveAvgPool2d, nn.Linear,
    ]  # fmt: skip
    assert not [n for n in read(network).nodes if isinstance(n.op, Unknown)]
    assert sorted(map(len, Streams(network).classes())) == [8]
    x = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    quantized = overq.quantize(network, x, overq.Recipe(Format.plain(8), first=None, last=None))
    assert [layer.name for layer in overq.summary(quantized)] == ["stem_Conv", "block_conv_Conv", "depth_Conv", "fc_Gemm"]
    assert integer_network(quantized, check=x).sqnr > 40  # type: ignore[operator]


def test_any_batch_runs(path: Path) -> None:
    network = from_onnx(path)
    x = torch.randn(5, 3, 12, 12)
    assert torch.allclose(torch.cat([network(one) for one in x.split(1)]), network(x), atol=1e-6)


def test_external_data_is_read_from_the_files_folder_only(tmp_path: Path) -> None:
    onnx.save(residual(), tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=100)
    assert from_onnx(tmp_path / "net.onnx").notes == ()
    deep = tmp_path / "deep"
    deep.mkdir()
    model = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../weights.bin" if entry.key == "location" else entry.value
    (deep / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"net\.onnx: the data of '\w+' lies outside the file's folder: \.\./weights\.bin$"):
        from_onnx(deep / "net.onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InputError, match=r"net\.onnx: the data of '\w+' is missing: no file weights\.bin beside it$"):
        from_onnx(tmp_path / "net.onnx")


def changed(tmp_path: Path, **entries: str) -> Path:
    """External data whose entries say something else."""
    onnx.save(residual(), tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=100)
    model = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entries.get(entry.key, entry.value)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "net.onnx"


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"length": str(1 << 31)}, "external data size|unreadable data|makes no sense"),
        ({"offset": str(1 << 40)}, "unreadable data|makes no sense"),
        ({"location": "link.bin"}, "lies outside the file's folder"),
        ({"location": "/etc/hostname"}, "lies outside the file's folder"),
    ],
    ids=["two GiB", "far behind", "a link", "an absolute path"],
)
def test_external_data_that_claim_too_much_are_one_line(entries: dict[str, str], why: str, tmp_path: Path) -> None:
    (tmp_path / "link.bin").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match=why) as error:
        from_onnx(changed(tmp_path, **entries))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [[9000, 8, 3, 3], [1 << 20, 1 << 20, 3, 3], [-1, 8, 3, 3]])
def test_shapes_that_the_data_do_not_have_are_one_line(shape: list[int], tmp_path: Path) -> None:
    model = residual()
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            tensor.dims[:] = shape
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"net\.onnx: [^\n]+$"):
        from_onnx(tmp_path / "net.onnx")


def test_large_weights_stay_in_the_file_until_they_are_copied(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 64])],
        [helper.make_empty_tensor_value_info("y")], [numpy_helper.from_array(values, "w")],
    )  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    assert len(without_weights(path)) < 400
    network = from_onnx(path)
    assert network.notes == ()
    path.write_bytes(b"")  # the network has its own copy
    (layer,) = network.children()
    assert torch.equal(layer.weight, torch.from_numpy(values).T)  # type: ignore[arg-type]


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    for name, data in {"empty": b"", "text": b"hello", "zip": b"PK\x03\x04" * 20, "claim": b"\x3a\xff\xff\xff\xff\x07"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=r"not a readable ONNX model: [^\n]+$"):
            from_onnx(tmp_path / name)
    with pytest.raises(InputError, match=r"absent\.onnx: no such file$"):
        from_onnx(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match=r"no such file$"):
        from_onnx(tmp_path)


def mutated(data: bytes, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    found = bytearray(data)
    kind = seed % 4
    if kind == 0:
        return bytes(found[: rng.integers(1, len(found))])
    for at in rng.integers(0, len(found), rng.integers(1, 6)):
        found[at] = rng.integers(0, 256)
    if kind == 1:
        at = int(rng.integers(0, len(found)))
        found[at:at] = rng.bytes(int(rng.integers(1, 9)))
    if kind == 2:
        at = int(rng.integers(0, len(found) - 9))
        del found[at : at + int(rng.integers(1, 9))]
    return bytes(found)


def check_mutations(path: Path, seeds: range) -> None:
    data, refused = path.read_bytes(), 0
    for seed in seeds:
        path.write_bytes(mutated(data, seed))
        try:
            from_onnx(path, check=False)
        except OverqError as error:
            assert "\n" not in str(error), str(error)  # noqa: PT017
            refused += 1
    assert refused > 0


def test_mutated_files_are_read_or_refused_in_one_line(path: Path) -> None:
    check_mutations(path, range(200))


@pytest.mark.slow
def test_ten_thousand_mutated_files_are_read_or_refused_in_one_line(path: Path) -> None:
    check_mutations(path, range(200, 10_000))


def test_the_command_line_takes_it(path: Path) -> None:
    assert type(next(load_model(str(path)).children())) is nn.Conv2d
    with pytest.raises(InputError, match=r"^--weights \S+: an ONNX file has its own weights$"):
        load_model(str(path), path)


def test_a_quantized_file_is_read_as_float_with_a_word(tmp_path: Path) -> None:
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["a"]), helper.make_node("DequantizeLinear", ["a", "s", "z"], ["b"]),
             helper.make_node("Relu", ["b"], ["y"])]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])], [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.float32(0.001), "s"), numpy_helper.from_array(np.uint8(128), "z")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "q.onnx")
    with pytest.warns(OverqWarning, match=r"q\.onnx: the file is quantized: its QuantizeLinear and DequantizeLinear were left out"):
        network = from_onnx(tmp_path / "q.onnx", check=False)
    x = torch.randn(3, 4)
    assert torch.equal(network(x), x.relu())
