"""`overq sensitivity`: what it prints and writes, and its refusals."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from overq.cli import main
from overq.methods import METHODS
from overq.nn import LayerRule, Recipe
from overq.spec import Format
from overq.tune.assign import best_assignment
from overq.tune.sensitivity import Sensitivity

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
    files = ["--save-recipe", str(tmp_path / "recipe.json"), "--json", str(tmp_path / "all.json"), "--csv", str(tmp_path / "rows.csv")]
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
        (["--save-recipe", "x.json"], "overq: --save-recipe needs --budget\n"),
        (["--recipe", "x.json", "--seed", "1"], "overq: --recipe says what --seed would: leave one out\n"),
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


def test_a_recipe_file_is_the_base_and_what_is_found_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Recipe(METHODS["olive"](5), 6, overrides=(("blocks.0.*", LayerRule(METHODS["sparq"]())),), seed=3)
    (tmp_path / "base.json").write_text(json.dumps(base.to_json()))
    files = ["--recipe", str(tmp_path / "base.json"), "--save-recipe", str(tmp_path / "found.json"), "--csv", str(tmp_path / "rows.csv")]
    assert run(monkeypatch, *SMALL, "--budget", "3.5", *files) == 0
    found = Recipe.from_json(json.loads((tmp_path / "found.json").read_text()))
    assert found.with_(overrides=base.overrides) == base
    assert found.overrides[0] == base.overrides[0]
    assert {rule.weight_bits for _, rule in found.overrides[1:]} == {6}
    tried = {row["layer"] for row in csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text()))}
    assert tried
    assert not any(name.startswith("blocks.0.") for name in tried)
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", [
        "overq", "evaluate", "--limit", "60", "--samples", "40", "--json", "-",
        "--recipe", str(tmp_path / "found.json"), "--recipe", str(tmp_path / "base.json"),
    ])  # fmt: skip
    with pytest.raises(SystemExit) as exit:
        main()
    assert not exit.value.code
    result = json.loads(capsys.readouterr().out)
    assert [(r["setting"], r["recipe"], r["weight_bits"]) for r in result["results"]] == [
        ("float", "", 32), ("OliVe A5", "found", 6), ("OliVe A5", "base", 6),
    ]  # fmt: skip
    assert result["seed"] == 3
    assert all(r["top1"] > 80 for r in result["results"])


@pytest.mark.parametrize(("text", "more", "message"), [
    ("{", [], "r.json: not a readable JSON file: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ('{"method": {"name": "olive", "bits": 99}}', [], "r.json: OliVe.bits must be an integer from 3 to 8, not 99"),
    ('{"overrides": [["stages.*", {"skip": true}]]}', ["--samples", "20"],
     "override 'stages.*' matches no layer; layers are stem.0, blocks.0.conv1, blocks.0.conv2, blocks.0.conv3, blocks.0.shortcut.0, "
     "blocks.1.conv1, …"),
    ("{}", ["--bits", "4"], "--recipe says what --bits would: leave one out"),
    ("{}", ["--calibration-source", "statistics"], "--recipe says what --calibration-source would: leave one out"),
    ('{"bias_correction": true, "source": "statistics"}', [],
     'r.json: a recipe with source = "statistics" has no images, which sequential and bias_correction need'),
])  # fmt: skip
def test_recipes_that_cannot_be_evaluated_are_refused_in_one_line(
    text: str, more: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.json").write_text(text)
    monkeypatch.setattr("sys.argv", ["overq", "evaluate", "--recipe", str(tmp_path / "r.json"), *more])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2
    assert capsys.readouterr().err.replace(f"{tmp_path}/", "") == f"overq: {message}\n"
