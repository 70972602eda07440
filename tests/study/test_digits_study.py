"""The repository's digits study through the command line, reduced to one width: run, interrupted, resumed, shown, compared, drawn."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from study_cases import command

from overq.cli.contents import contents_of
from overq.methods import METHODS

STUDY = Path(__file__).parents[2] / "studies" / "digits.toml"


def reduced(folder: Path) -> Path:
    """Every method of the study once, W8, 200 images."""
    text = re.sub(r"(bits|cascade|element|weight_bits) = \[([^],]*)[^]]*\]", r"\1 = [\2]", STUDY.read_text())
    (folder / "digits.toml").write_text("limit = 200\n" + text)
    return folder / "digits.toml"


def test_the_digits_study_runs_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    def overq(*words: str | Path) -> str:
        code, out, err = command(capsys, monkeypatch, "study", *words, "--store", tmp_path / "s.sqlite")
        assert code == 0, err
        return out

    file = reduced(tmp_path)
    full, settings = file.read_text(), 7 + len(METHODS)  # float, plain A3 … A8, the rivals (uniform is plain) and one recipe
    file.write_text(full.partition("[[recipes]]")[0])
    assert overq("run", file, "--workers", "2") == f"{settings - 1} cells: {settings - 1} done, {settings - 1} of them now, 0 failed\n"
    file.write_text(full)
    assert overq("run", file, "--workers", "2") == f"{settings} cells: {settings} done, 1 of them now, 0 failed\n", "more cells later"
    assert overq("show").count("\n") == settings + 1
    compared = overq("compare", "uniform:bits=3:W8", "overq:bits=3,cascade=1:W8")
    assert re.match(r"digits: overq\S+ - uniform\S+ = [+-]\d+\.\d\d points, 95 % interval \[.*\], McNemar p = ", compared)
    assert "digits, W8: OverQ is " in overq("plot", tmp_path / "p.svg")
    report = contents_of(tmp_path / "s.sqlite", None, None, None, 16, None)
    ((network, inputs),) = report.inputs
    assert (network, len(inputs), sum(inputs[1].counts) > 1000, len(inputs[1].vectors)) == ("digits", 28, True, 4)
    assert all(layer.step and layer.format for name, label, layers in report.layers for layer in layers), "as calibration chose them"
    overq("export", tmp_path / "r.csv")
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert {row["method"] for row in rows} == {"float", *METHODS, "plain_recipe"}
    accuracy = {row["label"]: float(row["top1"]) for row in rows}
    assert accuracy["float"] > 95
    assert abs(accuracy["uniform:bits=8:W8"] - accuracy["float"]) < 1
    assert accuracy["high_precision:bits=3:W8"] > accuracy["float"] - 1, "what is never clipped loses little; on 200 images it may win"
