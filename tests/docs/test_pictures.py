"""The pictures of docs/img come from scripts/draw_format.py, and each shows what its caption says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from overq.spec import State

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_format", ROOT / "scripts" / "draw_format.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw_format"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_script_draws_every_committed_picture(script: ModuleType, tmp_path: Path) -> None:
    script.main(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    committed = {path.name for path in (ROOT / "docs" / "img").iterdir() if path.name.startswith(("format-", "idea"))}
    assert drawn == committed
    assert all(path.stat().st_size > 8_000 for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain", {State.OWN}),
        ("range", {State.OWN, State.RANGE}),
        ("cascade", {State.OWN, State.RANGE, State.MOVED}),
        ("precision", {State.OWN, State.RANGE, State.PRECISION}),
        ("policy", set(State)),
        ("tile", {State.OWN, State.RANGE, State.MOVED}),
        ("signed", set(State)),
    ],
)
def test_a_picture_shows_the_states_of_its_mode(script: ModuleType, name: str, shown: set[State]) -> None:
    assert {lane.state for example in script.FIGURES[name] for lane in example.lanes} == shown


def test_the_idea_is_that_the_outlier_becomes_right_and_the_rest_stays(script: ModuleType) -> None:
    before, after = script.IDEA
    assert before.row == after.row
    assert before.values == [5, 15, 0, 9]
    assert after.values == list(after.row)


def test_the_policies_serve_different_outliers_of_the_same_row(script: ModuleType) -> None:
    first, largest = script.FIGURES["policy"]
    assert first.row == largest.row
    assert (first.values[1:3], largest.values[1:3]) == ([18, 15], [15, 60])


def test_an_outlier_at_a_tiles_end_is_clipped_though_a_zero_follows(script: ModuleType) -> None:
    (tile,) = script.FIGURES["tile"]
    assert (tile.row[4], tile.values[3], tile.values[5]) == (0, 15, 30)
