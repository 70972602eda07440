"""`overq cycles` and the study behind it, on the built-in network."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import overq
from overq import cli
from overq.errors import OverqError
from overq.spec import Format
from overq.study import digits
from overq.study.cycles import NetworkCycles, network_cycles, recipe


def measured(fmt: Format, double_buffered: bool = False) -> NetworkCycles:
    quantized = overq.quantize(digits.network(), digits.images("calibration")[0], recipe(fmt, 8))
    return network_cycles(quantized, digits.images("test")[0][:2], rows=8, columns=8, double_buffered=double_buffered, check=True)


def test_overq_costs_no_cycle_and_with_double_buffering_one_a_fold() -> None:
    for double in (False, True):
        run = measured(Format(4, 4), double)
        assert len(run.layers) == 28
        for layer in run.layers:
            extra = layer.folds - 1 if double and layer.state_bits and layer.vectors >= 8 else 0
            assert layer.cycles == layer.plain_cycles + extra, layer.name
            assert 0 < layer.utilization <= 1
            assert layer.macs == layer.vectors * layer.depth * layer.outputs
            assert layer.memory_states * layer.bits == layer.memory_digits * layer.state_bits


def test_second_digits_are_counted_from_real_zeros() -> None:
    full, plain = measured(Format(4, 4)), measured(Format.plain(4))
    assert all(layer.second > 0.02 for layer in full.layers[1:-1])
    assert all(layer.second == 0 and layer.state_bits == 0 for layer in plain.layers)
    middle = slice(1, -1)
    assert all(a.nonzero > b.nonzero for a, b in zip(full.layers[middle], plain.layers[middle], strict=True))


def test_a_model_quantized_for_other_tiles_is_refused() -> None:
    model = nn.Sequential(nn.Linear(32, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4))
    quantized = overq.quantize(model, torch.randn(30, 32), recipe(Format(4, 4), 16))
    with pytest.raises(OverqError, match=r"^layer '2' was quantized in tiles of 16 lanes, but the array has 8 rows$"):
        network_cycles(quantized, torch.randn(2, 32), rows=8, columns=8)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["overq", "cycles", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    return code, *capsys.readouterr()


def test_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, out, _ = run(capsys, monkeypatch, "--check", "--json", tmp_path / "c.json")
    assert code == 0
    assert "every sum equals the integer layer's" in out
    assert "plain array: 9052 cycles; OverQ +0.00%" in out
    written = json.loads((tmp_path / "c.json").read_text())
    assert sum(layer["cycles"] for layer in written["layers"]) == 9052
    code, out, _ = run(capsys, monkeypatch, "--no-segments")
    assert "plain array: 11692 cycles; OverQ +0.00%" in out  # a tap a tile
    code, out, _ = run(capsys, monkeypatch, "--double-buffer", "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [r["name"] for r in rows] == [layer["name"] for layer in written["layers"]]
    assert sum(int(r["cycles"]) for r in rows) < 9052


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--count", 100000], "there are only"),
        (["--bits", 9], "Format.bits must be an integer from 2 to 8"),
        (["--columns", 0], "ArrayConfig.columns must be an integer"),
        (["--model", "x.py:y"], "--model and --images go together"),
    ],
)
def test_wrong_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[object], words: str
) -> None:
    code, _, err = run(capsys, monkeypatch, *arguments)
    assert code == 2
    assert words in err
    assert len(err.splitlines()) == 1
