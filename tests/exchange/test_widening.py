"""Float64 between the quantizers: every operator, widened, gives in onnxruntime what it gave in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnx")

from test_onnx_operators import CASES, IMAGE, MANY, nodes_of, saved  # noqa: E402

from overq.exchange.reading import opened  # noqa: E402
from overq.exchange.widening import REWRITTEN, WIDE, widened  # noqa: E402


def run(file: Any, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {"x": x})
    return found


def check(path: Path, shape: tuple[int, ...]) -> Any:
    """The widened graph."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    model = opened(path)
    widened(model.graph, model.opset_imports[""], ())
    for mine, other in zip(run(ir.to_proto(model).SerializeToString(), x), run(str(path), x), strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
    return model.graph


@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_an_operator_in_float64(case: Any, tmp_path: Path) -> None:
    op, shape, constants, attributes, opset = case
    if opset < 11:
        pytest.skip("no file of so old an opset is written: 11 is the oldest")
    nodes, named = nodes_of(op, constants, attributes)
    graph = check(saved(tmp_path / "m.onnx", nodes, shape, named, opset), shape)
    casts = [node.attributes["to"].value for node in graph if node.op_type == "Cast"]
    if op in WIDE or op in REWRITTEN:
        assert casts.count(ir.DataType.FLOAT) <= 1  # only the output's


@pytest.mark.parametrize("name", MANY)
def test_operators_together_in_float64(name: str, tmp_path: Path) -> None:
    nodes, constants, opset = MANY[name]
    check(saved(tmp_path / "m.onnx", nodes, IMAGE, constants, opset, outputs=2), IMAGE)
