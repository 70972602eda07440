from __future__ import annotations

import json
from pathlib import Path

import pytest

from overq import Format, LayerRule, Recipe
from overq.errors import FormatError, InputError
from overq.methods import METHODS, Dynamic, Uniform
from overq.nn.recipe import read_recipe


@pytest.mark.parametrize("method", [Format(3, 2, policy="largest", lanes=16), *(METHODS[name]() for name in METHODS)], ids=str)
def test_json_round_trip(method) -> None:
    ours = isinstance(method, Format) or method.format(False) is not None
    recipe = Recipe(
        method,
        weight_bits=5,
        calibration="percentile:99.5" if ours else "format-mse",
        first=None,
        overrides=(("layer1.*", LayerRule(Format.plain(6), skip=True)),),
    )
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_a_format_in_place_of_a_method_is_the_method_of_that_format() -> None:
    assert Recipe(Format(3, 2, policy="largest", lanes=16)) == Recipe(METHODS["overq"](3, 2, policy="largest", lanes=16))
    assert Recipe(Format.plain(5)) == Recipe(METHODS["uniform"](5))
    assert Recipe(Format(3, 2)).format == Format(3, 2)
    assert LayerRule(Format.plain(5)).format == Format.plain(5)


def test_the_old_keyword_format_still_works_and_says_so() -> None:
    fmt = Format(3, 2)
    for make in (Recipe, LayerRule):
        with pytest.warns(DeprecationWarning, match=r"format=…\) is .*method=…\) now"):
            assert make(format=fmt, weight_bits=6) == make(fmt, 6)
        with pytest.raises(FormatError, match="give one of them"):
            make(fmt, format=fmt)
    with pytest.warns(DeprecationWarning, match="method"):
        assert Recipe(seed=3).with_(format=fmt) == Recipe(fmt, seed=3)


def test_what_json_leaves_out_has_its_default_and_recipes_from_before_methods_are_read() -> None:
    assert Recipe.from_json({}) == Recipe()
    assert Recipe.from_json({"method": {"name": "olive", "bits": 5}, "weight_bits": 4}) == Recipe(METHODS["olive"](5), 4)
    fmt = {
        "bits": 3,
        "cascade": 2,
        "range_overwrite": True,
        "precision_overwrite": False,
        "policy": "first",
        "signed": False,
        "lanes": None,
    }
    old = {"format": fmt, "first": None, "overrides": [["a*", {"format": fmt, "skip": True}]]}
    ranged = Format(3, 2, range_bits=3, fraction_bits=0)
    assert Recipe.from_json(old) == Recipe(ranged, first=None, overrides=(("a*", LayerRule(ranged, skip=True)),))


def test_the_better_setting_of_the_format_page_is_a_file() -> None:
    assert read_recipe(Path(__file__).parents[2] / "studies" / "better.json") == Recipe(Format(4, 8, policy="largest", evict=2))


def test_recipe_files(tmp_path) -> None:
    recipe = Recipe(METHODS["sparq"](3), 5, sequential=True)
    (tmp_path / "r.json").write_text(json.dumps(recipe.to_json()))
    assert read_recipe(tmp_path / "r.json") == recipe
    for text, error, message in (
        ("{", InputError, "not a readable JSON file"),
        ('{"calibration": 3}', FormatError, "r.json: calibration must be a name, not 3$"),
        ("[" * 10**5, InputError, "not a readable JSON file"),
    ):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(error, match=message):
            read_recipe(tmp_path / "r.json")
    with pytest.raises(InputError, match="not a readable JSON file"):
        read_recipe(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(weight_bits=3), "weight_bits must be an integer from 4 to 8, not 3"),
        (lambda: Recipe(calibration="best"), "no calibration method 'best'; there are max, "),
        (lambda: Recipe(calibration="percentile:0"), "percentile must be above 0 and at most 100, not 0"),
        (lambda: Recipe(calibration="percentile:x"), "the parameter of calibration 'percentile:x' must be a number"),
        (lambda: Recipe(calibration="max:3"), "calibration method 'max' takes no parameter"),
        (lambda: Recipe("A4"), "a rule's method must be a Method or a Format, not 'A4'"),
        (lambda: Recipe(METHODS["olive"](), calibration="kl"), r"OliVe A4 finds its step by the least squared error .* 'kl' is for overq"),
        (lambda: Recipe(METHODS["mx"]()).format, "MXFP4 has no number format"),
        (lambda: Recipe(overrides=(("a", Format()),)), r"Recipe.overrides holds \(name pattern, LayerRule\) pairs"),
        (lambda: Recipe.from_json({"bots": 3}), r"a Recipe has no key 'bots'; there are method, "),
        (lambda: Recipe.from_json([]), r"a Recipe is an object with keys, not \[\]"),
        (lambda: Recipe.from_json({"method": "overq"}), 'a method is an object with a "name" and parameters'),
        (lambda: Recipe.from_json({"method": {"name": "overq", "c": 4}}), "method 'overq' has no parameter 'c'; there are bits, "),
        (lambda: Recipe.from_json({"method": {"name": "over"}}), "no method 'over'; there are uniform, overq, "),
        (lambda: Recipe.from_json({"format": {"c": 4}}), "a Format needs exactly the fields"),
        (lambda: Recipe.from_json({"overrides": [["a"]]}), r"a recipe's overrides are a list of \[name pattern, rule\] pairs"),
        (lambda: Recipe.from_json({"first": 3}), "a LayerRule is an object with keys, not 3"),
        (lambda: Recipe.from_json({"seed": "x"}), "seed must be a whole number from 0 to 2\\*\\*32 - 1, not 'x'"),
    ],
)
def test_senseless_recipes_are_refused_by_name(make, message: str) -> None:
    with pytest.raises(FormatError, match=f"^{message}"):
        make()


def test_weights_cannot_weigh_the_errors_of_groups_of_lanes() -> None:
    with pytest.raises(FormatError, match=r"calibration 'output-mse' weighs whole vectors .* not a step for each 8 lanes by max"):
        Recipe(Dynamic(Uniform(4), group=8), calibration="output-mse")
    assert Recipe(Dynamic(Uniform(4)), calibration="output-mse").calibration == "output-mse"
