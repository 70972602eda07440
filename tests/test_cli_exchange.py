"""`overq save`, `inspect`, `export` and `vectors`, on the built-in network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from overq.study import digits
from test_cli import run


def test_a_saved_network_is_inspected_exported_and_looked_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx_ir")
    runtime = pytest.importorskip("onnxruntime")
    packed, onnx = tmp_path / "digits.overq", tmp_path / "digits.onnx"
    code, out, _ = run(capsys, monkeypatch, "save", "--packed", "--weight-bits", 4, "--samples", 64, "--to", packed, "--c-reader", tmp_path)
    assert (code, out) == (0, f"wrote {packed}: {packed.stat().st_size:,} bytes\n")
    assert (tmp_path / "overq.c").stat().st_size
    assert (tmp_path / "overq.h").stat().st_size
    code, out, _ = run(capsys, monkeypatch, "inspect", packed)
    assert code == 0
    assert "24,464 weights in 28 layers" in out
    assert "A4 r3+f3 c4 W4: 96.8 % of the weights" in out
    code, out, _ = run(capsys, monkeypatch, "inspect", packed, "--json", "-")
    assert (code, json.loads(out)["weights"], len(json.loads(out)["rows"])) == (0, 24464, 28)
    code, out, _ = run(capsys, monkeypatch, "export", "--from", packed, "--to", onnx)
    wrote, beside = out.splitlines()
    assert (code, wrote) == (0, f"wrote {onnx}: {onnx.stat().st_size:,} bytes, exact")
    assert beside.startswith("onnxruntime beside the simulation in float64: the same class on 32 of 32, largest difference ")
    assert float(beside.split()[-5]) < 1e-6
    images, labels = digits.images("test")
    answers = runtime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"]).run(None, {"x": images[:200].numpy()})[0]
    assert (answers.argmax(1) == labels[:200].numpy()).mean() > 0.9
    folder = tmp_path / "vectors"
    code, out, _ = run(capsys, monkeypatch, "vectors", "--from", packed, "--layer", "blocks.0.conv2", "--to", folder)
    assert code == 0
    assert np.load(folder / "digits.npy").shape == np.load(folder / "states.npy").shape == (1, 8, 8, 1, 8)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("export", "--to", "x.onnx", "--form", "tflite"), "--form tflite: one of exact, qdq, integer"),
        (("export", "net.onnx", "--to", "x.onnx"), "a network of your own needs --calibration-images, or --from"),
        (("save", "--from", "a", "--bits", 4, "--to", "x"), "--from says how the network is quantized"),
        (("inspect", "nothing"), "nothing: no such file"),
        (("vectors", "--from", "nothing", "--layer", "a", "--to", "v"), "nothing: no such file"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    arguments: tuple[str, ...], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, error = run(capsys, monkeypatch, *arguments)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert why in error
    assert not (tmp_path / "x.onnx").exists()
