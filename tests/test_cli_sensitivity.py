"""`overq sensitivity`: what it prints and writes, and its refusals."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from overq.cli import main
from overq.nn import Recipe
from overq.nn.assign import best_assignment
from overq.nn.sensitivity import Sensitivity
from overq.spec import Format

SMALL = ["--samples", "40", "--plain-bits", "4,3", "--bits", "3", "--cascades", "1", "--modes", "range"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of the command."""
    monkeypatch.setattr("sys.argv", ["overq", "sensitivity", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    return exit.value.code if isinstance(exit.value.code, int) else 0


def test_table_assignment_and_files_tell_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--recipe", str(tmp_path / "recipe.json"), "--json", str(tmp_path / "all.json"), "--csv", str(tmp_path / "rows.csv")]
    assert run(monkeypatch, *SMALL, "--budget", "3.5", *files) == 0
    printed = capsys.readouterr().out
    stored = json.loads((tmp_path / "all.json").read_text())
    found = stored.pop("assignment")
    measured = Sensitivity.from_json(stored)
    best = best_assignment(measured, 3.5)
    assert Recipe.from_json(json.loads((tmp_path / "recipe.json").read_text())) == best.recipe == Recipe.from_json(found["recipe"])
    assert f"{best.average:.3f} stored bits on average" in printed
    assert all(f"{name:32s} {trial.label}" in printed for name, trial in best.chosen)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text())))
    assert len(rows) == 3 * len(measured.layers)
    assert [float(row["mse"]) for row in rows] == [trial.loss for layer in measured.layers for trial in layer.trials]
    assert [t.candidate for t in measured.layers[0].trials] == [Format.plain(4), Format.plain(3), Format(3, 1, fraction_bits=0)]


def test_top1_of_the_labelled_half(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, *SMALL, "--top1", "--loss", "kl", "--edges", "--csv", "-") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["rows"] for row in rows} == {"40"}
    assert all(35 <= int(row["correct"]) <= 40 for row in rows)
    assert rows[0]["layer"] == "stem.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "x.json"], "overq: --recipe needs --budget\n"),
        (["--labels", "x.csv"], "overq: --labels needs --top1\n"),
        ([*SMALL, "--budget", "2"], "overq: a budget of 2 stored bits cannot be kept: the cheapest candidates take 3 on average\n"),
        ([*SMALL, "--loss", "l1"], "overq: no loss 'l1'; there are mse, kl\n"),
        ([*SMALL, "--budget", "4", "--unit", "joule"], "overq: no budget unit 'joule'; there are stored, multiplier\n"),
        (["--bits", "a"], "overq: --bits a: write whole numbers separated by commas\n"),
    ],
)
def test_refusals_are_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err == message
