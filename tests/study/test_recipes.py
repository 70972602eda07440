"""Recipes in a study: what `overq.quantize` does with the same recipe, and cost counted as for methods."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from overq import Format, Recipe, datafree, quantize
from overq.errors import FormatError, OverqError
from overq.integer import integer_network
from overq.methods import METHODS, Cost, Dynamic, OverQ
from overq.nn import LayerRule, observe, observe_sequentially, summary
from overq.study import cell, digits, evaluate, recipes
from overq.study.element import element
from overq.study.plan import Network, Setting, Study, expand, read
from overq.study.recipes import canonical, install_recipe, lean, recipe_of
from overq.tune import reorder_network
from overq.tune.assign import best_assignment
from overq.tune.sensitivity import sensitivity

EDGE = LayerRule(Format.plain(8), 8, "max")
X = digits.images("calibration")[0]
BATCHES = [X[:100], X[100:]]


def test_a_recipe_s_cell_is_quantize_with_that_recipe() -> None:
    model = digits.network()
    seen = observe(model, BATCHES, seed=3)
    keys = {"bits": 3, "cascade": 2, "policy": "largest", "calibration": "mse", "bias_correction": True, "sequential": True}
    recipe = Recipe(Format(3, 2, policy="largest"), 8, "mse", EDGE, EDGE, seed=3, bias_correction=True)
    expected = quantize(model, BATCHES, recipe, seen=observe_sequentially(model, BATCHES, recipe))
    result, cost = install_recipe(model, seen, BATCHES, recipe_of(keys, 8, 3), keys)
    test = digits.images("test")[0][:64]
    with torch.no_grad():
        assert torch.equal(result(test), expected(test))
        plain = install_recipe(model, seen, BATCHES, recipe_of({**keys, "sequential": False}, 8, 3), {})[0]
        assert not torch.equal(result(test), plain(test)), "sequential observation changes the steps"
    assert cost == Cost(3, 1, 3, 8)


def test_a_recipe_s_family_is_that_of_its_format_dynamic_or_not() -> None:
    keys = (("bits", 4), ("cascade", 4)), (("bits", 4), ("cascade", 0), ("dynamic", "rms")), (("bits", 4), ("dynamic", "rms"))
    assert [Setting("recipe", each, 8).family for each in keys] == ["overq_recipe", "plain_recipe", "overq_recipe"]


def test_what_means_the_same_is_one_setting() -> None:
    table = {"source": "images", "equalize": [0.0, 0.5], "reorder": False, "bits": 3, "calibration": ["mse", "format-mse"], "cascade": 2}
    assert [s.label for s in expand([], (8,), [table, {"bits": 3, "cascade": 2}]) if s.method == "recipe"] == [
        "recipe:bits=3,cascade=2,calibration=mse:W8",
        "recipe:bits=3,cascade=2:W8",
        "recipe:bits=3,cascade=2,calibration=mse,equalize=0.5:W8",
        "recipe:bits=3,cascade=2,equalize=0.5:W8",
    ]
    with pytest.raises(FormatError, match="^equalize must be"):
        expand([], (8,), [{"bits": 3, "equalize": False}])


def test_the_old_switches_are_the_new_bits() -> None:
    old = {"bits": 3, "cascade": 1, "range_overwrite": [True, False], "precision_overwrite": True}
    assert [s.label for s in expand([], (8,), [old]) if s.method == "recipe"] == [
        "recipe:bits=3,cascade=1:W8", "recipe:bits=3,cascade=1,range_bits=0:W8",
    ]  # fmt: skip


def test_cascade_0_is_plain_and_its_modes_are_dropped() -> None:
    settings = expand([], (8,), [{"bits": [3], "cascade": [0, 1], "fraction_bits": [3, 0], "range_overwrite": True}])
    assert [s.label for s in settings if s.method == "recipe"] == [
        "recipe:bits=3,cascade=0:W8",
        "recipe:bits=3,cascade=1,fraction_bits=3:W8",
        "recipe:bits=3,cascade=1,fraction_bits=0:W8",
    ]
    assert [s.family for s in settings if s.method == "recipe"] == ["plain_recipe", "overq_recipe", "overq_recipe"]
    assert recipe_of({"bits": 5, "cascade": 0}, 4, 7) == Recipe(Format.plain(5), 4, first=EDGE, last=EDGE, seed=7)


@pytest.mark.parametrize("source", ["statistics", "distilled"])
def test_a_cell_without_calibration_images(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datafree.seen, "__defaults__", (16, 64))
    network = Network("digits", "overq.study.digits:network", "digits", "there are none")
    monkeypatch.setattr(cell, "fingerprint", lambda network, measures: "c")
    (only,), _ = cell.cells_of(Study("s", (network,), (Setting("recipe", (("bits", 6), ("source", source)), 8),), limit=100))
    found, cost, _, versions = evaluate.evaluate(only.key, only)
    assert found.columns["top1"].mean() > 0.9
    assert (cost.payload_bits, cost.metadata_bits, cost.weight_bits) == (6, 1, 8)
    assert {"overq", "code", "commit", "torch", "numpy"} <= versions.keys()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"bots": 3}, r"^a recipe has no key 'bots'; there are bits, cascade, .*, calibration, .*, source, .*"),
        ({"seed": 3}, r"^a recipe has no key 'seed'"),
        ({"sequential": 1}, r"^a recipe's sequential must be true or false, not 1$"),
        ({"calibration": 3}, r"^a recipe's calibration must be a name, not 3$"),
        ({"bits": 9}, r"^Format.bits must be an integer from 2 to 8, not 9$"),
        ({"source": "thin air"}, r"^a recipe's source must be one of images, statistics, distilled, not 'thin air'$"),
        ({"source": "statistics", "bias_correction": True}, r'^a recipe with source = "statistics" has no images'),
        ({"equalize": 2}, r"^equalize must be"),
        ({"integers": 1}, r"^a recipe's integers must be true or false, not 1$"),
        ({"budget": "4"}, r"^a recipe's budget must be a number of bits, not '4'$"),
        ({"budget": 4.0, "bits": 3}, r"^a recipe with a budget finds its formats itself: leave bits out$"),
        ({"budget": 4.0, "mix": "all"}, r"^a recipe's mix must be one of overq, plain, not 'all'$"),
        ({"budget": 4.0, "loss": "l1"}, r"^a recipe's loss must be one of mse, "),
        ({"unit": "stored"}, r"^a recipe's unit says how a budget is kept: give a budget, too$"),
    ],
)
def test_a_senseless_recipe_is_refused_when_the_study_is_read(keys: dict, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Setting("recipe", tuple(keys.items()), 8)


def test_a_budget_s_recipe_keeps_its_transforms() -> None:
    model, x = digits.network(), X[:10]
    seen = observe(model, [x])
    keys = {"budget": 8.0, "mix": "plain", "bias_correction": True, "calibration": "mse"}
    recipe = recipe_of(keys, 8)
    table = sensitivity(model, [x], [Format.plain(8)], recipe=recipe, seen=seen)
    result, _ = install_recipe(model, seen, [x], recipe, keys, measured=lambda: table)
    plain = quantize(model, seen, Recipe(Format.plain(8), calibration="mse"))
    assert [layer.step for layer in summary(result).layers] == [layer.step for layer in summary(plain).layers]
    assert all("bias corrected" in layer.note for layer in summary(result).layers)


def test_which_element_a_setting_needs() -> None:
    def named(**keys: object) -> str:
        return element(Setting("recipe", tuple({"bits": 4, "cascade": 8, **keys}.items()), 8))

    assert named(policy="largest", evict=2) == "A4 r3+f3 c4 evict2", "giving way is the encoder's"
    assert named(cascade=0) == "A4 plain"
    assert named(range_bits="auto") == "", "shifts that are set layer by layer are an element of their own"


def test_a_recipe_of_a_file_runs_as_quantize_runs_it(tmp_path: Path) -> None:
    recipe = Recipe(METHODS["sparq"](bits=3), 4, "format-mse", equalize=0.5, overrides=(("*", LayerRule(Format(3, 2), 4)),), seed=9)
    (tmp_path / "mine.json").write_text(json.dumps(recipe.to_json()))
    head = 'weight_bits = [8, 4]\nlimit = 30\n[[networks]]\nname = "d"\nmodel = "overq.study.digits:network"\n'
    (tmp_path / "s.toml").write_text(head + 'images = "digits"\ncalibration = "digits"\n[[recipes]]\nfile = "mine.json"\n')
    study = read(tmp_path / "s.toml")
    setting = study.settings[-1]
    assert (setting.label, setting.recipe(3), element(setting)) == ("recipe:file=mine:W4", recipe.with_(seed=3), "")
    assert [s.label for s in study.settings].count(setting.label) == 1
    only = next(c for c in cell.cells_of(study)[0] if c.setting == setting)
    again = cell.Cell.from_json(json.loads(json.dumps(only.to_json())))
    assert again == only, "the recipe itself stands in the store: the file is not read again"
    found, cost, _, _ = evaluate.evaluate(only.key, only)
    model = evaluate.prepared(digits.network())
    quantized = quantize(model, X, recipe.with_(seed=0))
    test = evaluate._scored(replace(only, setting=Setting("float"))).load(range(30))
    with torch.no_grad():
        right = quantized(test).argmax(1).numpy() == digits.images("test")[1][[i * 896 // 30 for i in range(30)]].numpy()
    assert np.array_equal(found.columns["top1"][:, 0], right)
    assert cost.weight_bits == 4


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('file = "mine.json"\nbits = 3', "a recipe of a file says itself what 'bits' would; there are file, fold_rotation,"),
        ('file = "absent.json"', "absent.json: not a readable JSON file"),
        ("file = 3", "a recipe's file must be a path, not 3"),
        ('file = ["mine.json", "sub/mine.json"]', "two recipe files of a study have the same name"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_when_the_study_is_read(tmp_path: Path, entry: str, message: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "mine.json").write_text(json.dumps(Recipe().to_json()))
    (tmp_path / "sub" / "mine.json").write_text(json.dumps(Recipe(Format(3)).to_json()))
    head = '[[networks]]\nname = "d"\nmodel = "overq.study.digits:network"\nimages = "digits"\ncalibration = "digits"\n'
    (tmp_path / "s.toml").write_text(f"{head}[[recipes]]\n{entry}\n")
    with pytest.raises(OverqError, match=re.escape(message)):
        read(tmp_path / "s.toml")


def test_a_method_of_ours_is_the_recipe_of_its_format() -> None:
    assert recipe_of({"bits": 3}, 8, method="uniform") == recipe_of({"bits": 3, "cascade": 0}, 8)
    assert recipe_of({"bits": 3, "cascade": 8}, 8, method="overq") == recipe_of({"bits": 3, "cascade": 8}, 8)


def test_a_cell_whose_method_had_a_step_of_its_own_is_read() -> None:
    network = Network("digits", "overq.study.digits:network", "digits", "digits")
    now = cell.Cell("s", network, Setting("uniform", (("bits", 6),), 8), 0, "c", (("code", "1"),))
    old = now.to_json()
    old["recipe"]["calibration"] = "least-error"
    assert cell.Cell.from_json(json.loads(json.dumps(old))) == now


def test_a_cell_of_before_recipes_had_a_source_is_read() -> None:
    network = Network("digits", "overq.study.digits:network", "digits", "digits")
    setting = Setting("recipe", (("bits", 6), ("source", "distilled")), 8)
    now = cell.Cell("s", network, setting, 0, "c", (("code", "1"),))
    old = now.to_json()
    del old["recipe"]["source"]
    assert cell.Cell.from_json(json.loads(json.dumps(old))) == now
    assert cell.key_of(old) != now.key, "its key is that of what was written"
    old["recipe"]["weight_bits"] = 4
    with pytest.raises(OverqError, match="its recipe is not what its setting spells"):
        cell.Cell.from_json(json.loads(json.dumps(old)))


def test_orders_integers_and_mixtures_are_what_the_package_s_own_functions_make(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = (Format.plain(3), Format.plain(5))
    monkeypatch.setattr(recipes, "MIXES", {"overq": (*plain, Format(2, 4)), "plain": plain})
    model, x, test = digits.network(), X[:10], digits.images("test")[0][:30]
    seen = observe(model, [x])

    def scores(**keys: object) -> torch.Tensor:
        result, cost = install_recipe(model, seen, [x], recipe_of(keys, 8), keys, measured=lambda: table)
        costs.append(cost)
        with torch.no_grad():
            return result(test)

    costs: list = []
    table = sensitivity(model, [x], recipes.MIXES["overq"], recipe=Recipe(), seen=seen)
    recipe = Recipe(Format(3, 1))
    carried = reorder_network(model, seen, recipe)
    with torch.no_grad():
        assert torch.equal(scores(bits=3, cascade=1, reorder_network=True), quantize(carried, observe(carried, [x]), recipe)(test))
        simulated, integers = quantize(model, seen, recipe), scores(bits=3, cascade=1, integers=True)
        network = integer_network(simulated, False)
        assert torch.equal(integers, network(test).double() * network.unit)
        assert (integers - simulated(test)).abs().max() < 0.2 * simulated(test).abs().max()
        found = best_assignment(table, 4.0)
        assert torch.equal(scores(budget=4.0), quantize(model, seen, found.recipe)(test))
        scores(budget=4.0, mix="plain")
    assert costs[0] == Cost(3, 1, 3, 8)
    assert costs[2].bits <= 4
    assert costs[3].metadata_bits == 0
    bare = install_recipe(model, seen, [x], recipe_of({"bits": 3, "edges": False}, 8), {})[0]
    assert {layer.format.bits for layer in summary(bare).layers} == {3}


def test_dynamic_steps_are_two_more_keys_of_every_method():
    made = recipe_of({"bits": 4, "cascade": 8, "dynamic": "max", "group": 32}, 8)
    assert made.method == Dynamic(OverQ(4, 8), "max", 32)
    assert recipe_of({"bits": 5, "dynamic": "rms"}, 8, method="olive").method == Dynamic(METHODS["olive"](5), "rms")
    assert list(canonical({"dynamic": "max", "cascade": 0, "bits": 4})) == ["bits", "cascade", "dynamic"]
    assert canonical({"dynamic": "", "bits": 4}) == lean({"dynamic": "", "bits": 4}) == {"bits": 4}
    with pytest.raises(FormatError, match='group 32 is of dynamic steps: give dynamic = "max" or "rms", too'):
        recipe_of({"bits": 4, "group": 32}, 8)
    with pytest.raises(FormatError, match="takes its scales from each block"):
        recipe_of({"dynamic": "max"}, 8, method="mx")


def test_rotations_are_keys_of_a_recipe():
    assert recipe_of({"bits": 4, "cascade": 0, "rotate": True}, 8).rotate
    assert recipe_of({"rotate": True}, 8, method="mx").rotate
    recipe_of({"bits": 4, "fold_rotation": True}, 8)
    with pytest.raises(FormatError, match="a recipe with fold_rotation goes with neither budget"):
        recipe_of({"bits": 4, "fold_rotation": True, "bias_correction": True}, 8)


def test_second_digits_of_each_layer() -> None:
    recipe = recipe_of({"bits": 4, "cascade": 4, "range_bits": "auto", "evict": 2}, 8)
    assert recipe.range_bits == "auto"
    assert recipe.format == Format(4, 4, evict=2)
    assert recipe_of({"bits": 4, "cascade": 4, "range_bits": 2}, 8).range_bits is None
