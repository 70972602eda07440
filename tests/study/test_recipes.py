"""Recipes in a study: what `overq.quantize` does with the same recipe, and cost counted as for methods."""

from __future__ import annotations

import pytest
import torch

from overq import Format, Recipe, quantize
from overq.errors import FormatError
from overq.methods import METHODS
from overq.nn import LayerRule, observe, observe_sequentially
from overq.nn.peers import install
from overq.study import cell, digits, evaluate
from overq.study.plan import Network, Setting, Study, expand
from overq.study.recipes import install_recipe, recipe_of

EDGE = LayerRule(Format.plain(8), 8, "max")
X = digits.images("calibration")[0]
BATCHES = [X[:100], X[100:]]


def test_a_recipe_s_cell_is_quantize_with_that_recipe() -> None:
    model = digits.network()
    seen = observe(model, BATCHES, seed=3)
    keys = {"bits": 3, "cascade": 2, "policy": "largest", "calibration": "mse", "bias_correction": True, "sequential": True}
    recipe = Recipe(Format(3, 2, policy="largest"), 8, "mse", EDGE, EDGE, seed=3, bias_correction=True)
    expected = quantize(model, BATCHES, recipe, seen=observe_sequentially(model, BATCHES, recipe))
    result, cost = install_recipe(model, seen, BATCHES, keys, 8, 3)
    test = digits.images("test")[0][:64]
    with torch.no_grad():
        assert torch.equal(result(test), expected(test))
        plain = install_recipe(model, seen, BATCHES, {**keys, "sequential": False}, 8, 3)[0]
        assert not torch.equal(result(test), plain(test)), "sequential observation changes the steps"
    assert cost == install(model, seen, METHODS["overq"](bits=3, cascade=2, policy="largest"))[1]


def test_cascade_0_is_plain_and_its_modes_are_dropped() -> None:
    settings = expand([], (8,), [{"bits": [3], "cascade": [0, 1], "precision_overwrite": [True, False]}])
    assert [s.label for s in settings if s.method == "recipe"] == [
        "recipe:bits=3,cascade=0:W8",
        "recipe:bits=3,cascade=1,precision_overwrite=true:W8",
        "recipe:bits=3,cascade=1,precision_overwrite=false:W8",
    ]
    assert [s.family for s in settings if s.method == "recipe"] == ["plain_recipe", "overq_recipe", "overq_recipe"]
    assert recipe_of({"bits": 5, "cascade": 0}, 4, 7) == Recipe(Format.plain(5), 4, first=EDGE, last=EDGE, seed=7)


@pytest.mark.parametrize("source", ["statistics", "distilled"])
def test_a_cell_without_calibration_images(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "DISTILLED", 16)
    network = Network("digits", "overq.study.digits:network", "digits", "there are none")
    monkeypatch.setattr(cell, "fingerprint", lambda network, measures: "c")
    (only,), _ = cell.cells_of(Study("s", (network,), (Setting("recipe", (("bits", 6), ("source", source)), 8),), limit=100))
    found, cost, _, versions = evaluate.evaluate(only.key, only)
    assert found.columns["top1"].mean() > 0.9
    assert (cost.payload_bits, cost.metadata_bits, cost.weight_bits) == (6, 1.5, 8)
    assert {"overq", "code", "commit", "torch", "numpy"} <= versions.keys()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"bots": 3}, r"^a recipe has no key 'bots'; there are bits, cascade, .*, calibration, .*, sequential, source$"),
        ({"seed": 3}, r"^a recipe has no key 'seed'"),
        ({"sequential": 1}, r"^a recipe's sequential must be true or false, not 1$"),
        ({"calibration": 3}, r"^a recipe's calibration must be a name, not 3$"),
        ({"bits": 9}, r"^Format.bits must be an integer from 2 to 8, not 9$"),
        ({"source": "thin air"}, r"^a recipe's source must be one of images, statistics, distilled, not 'thin air'$"),
        ({"source": "statistics", "bias_correction": True}, r'^a recipe with source = "statistics" has no images'),
        ({"equalize": 2}, r"^equalize must be"),
    ],
)
def test_a_senseless_recipe_is_refused_when_the_study_is_read(keys: dict, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Setting("recipe", tuple(keys.items()), 8)
