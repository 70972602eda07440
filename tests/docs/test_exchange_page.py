"""The commands of docs/exchange.md, run as they stand on a file that nobody has seen before."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from overq import cli

PAGE = Path(__file__).parents[2] / "docs" / "exchange.md"


def given(folder: Path) -> None:
    """network.onnx and photos, which nobody has labelled."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 7, 8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    ).eval()
    options = {"dynamo": False, "input_names": ["pixels"], "dynamic_axes": {"pixels": {0: "n"}}}
    torch.onnx.export(net, (torch.randn(1, 3, 224, 224),), str(folder / "network.onnx"), **options)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    names = [f"{i}.png" for i in range(10)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (230, 240, 3), dtype=np.uint8)).save(folder / "photos" / name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_stranger_follows_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx_ir")
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    given(tmp_path)
    commands = PAGE.read_text(encoding="utf-8").split("```\n")[1].splitlines()
    assert [command.split()[1] for command in commands] == ["evaluate", "export", "export", "save", "inspect"]
    for command in commands:
        monkeypatch.setattr("sys.argv", shlex.split(command))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0, capsys.readouterr().err
    for name in ("overq4.onnx", "plain4.onnx"):
        session = runtime.InferenceSession(name, providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].name == "pixels"
        assert session.run(None, {"pixels": np.zeros((3, 3, 224, 224), np.float32)})[0].shape == (3, 4)
    assert (tmp_path / "reader" / "overq.c").exists()
