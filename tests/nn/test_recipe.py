from __future__ import annotations

import json

import pytest

from overq import Format, LayerRule, Recipe
from overq.errors import FormatError


def test_json_round_trip() -> None:
    recipe = Recipe(
        Format(3, 2, policy="largest", lanes=16),
        weight_bits=5,
        calibration="percentile:99.5",
        first=None,
        overrides=(("layer1.*", LayerRule(Format.plain(6), skip=True)),),
    )
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(weight_bits=3), "weight_bits must be an integer from 4 to 8, not 3"),
        (lambda: Recipe(calibration="best"), "no calibration method 'best'; there are max, "),
        (lambda: Recipe(calibration="percentile:0"), "percentile must be above 0 and at most 100, not 0"),
        (lambda: Recipe(calibration="percentile:x"), "the parameter of calibration 'percentile:x' must be a number"),
        (lambda: Recipe(calibration="max:3"), "calibration method 'max' takes no parameter"),
        (lambda: Recipe(format="A4"), "a rule's format must be a Format, not 'A4'"),
        (lambda: Recipe(overrides=(("a", Format()),)), r"Recipe.overrides holds \(name pattern, LayerRule\) pairs"),
        (lambda: Recipe.from_json({"format": {}}), r"Recipe needs exactly the fields \["),
    ],
)
def test_senseless_recipes_are_refused_by_name(make, message: str) -> None:
    with pytest.raises(FormatError, match=f"^{message}"):
        make()
