"""Assignment: the least loss under the budget, exactly; laws of the choice and of the recipe it makes."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from overq.errors import FormatError
from overq.nn import LayerRule, Recipe, quantize, summary
from overq.spec import Format
from overq.tune.assign import UNITS, Assignment, assign, best_assignment, least_loss
from overq.tune.sensitivity import LayerTrials, Sensitivity, Trial, sensitivity

FORMATS = [*(Format.plain(bits) for bits in (2, 3, 4, 5, 6, 8)), Format(2, 2), Format(3, 4), Format(4, 1, fraction_bits=0)]


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[list[int]], list[list[float]], int]:
    """Costs and losses of up to five layers with up to five choices; few distinct numbers, so that ties are frequent."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    cost = st.integers(1, 12) | st.integers(10**9, 10**12)
    loss = st.sampled_from([0.0, 0.5, 1.0, 1.5, 1e-9]) | st.floats(0, 1e3)
    rows = [draw(st.lists(st.tuples(cost, loss), min_size=n, max_size=n)) for n in shape]
    return [[c for c, _ in row] for row in rows], [[v for _, v in row] for row in rows], draw(st.integers(1, 10**6))


def added(losses: list[list[float]], picks: tuple[int, ...] | list[int]) -> float:
    """In the order of the layers, as the search adds them: floats then agree exactly."""
    total = 0.0
    for row, pick in zip(losses, picks, strict=True):
        total += row[pick]
    return total


@settings(max_examples=400, deadline=None)
@given(tables(), st.floats(0, 1))
def test_equals_brute_force(table: tuple[list[list[int]], list[list[float]], int], where: float) -> None:
    costs, losses, total = table
    low, high = sum(map(min, costs)) / total, sum(map(max, costs)) / total
    budget = max(low, low + where * (high - low))
    every = list(product(*(range(len(row)) for row in costs)))
    spent = {picks: sum(row[i] for row, i in zip(costs, picks, strict=True)) for picks in every}
    least = min(added(losses, picks) for picks in every if spent[picks] / total <= budget)
    picks = tuple(least_loss(costs, losses, budget, total))
    assert spent[picks] / total <= budget
    assert added(losses, picks) == least
    assert spent[picks] == min(spent[p] for p in every if spent[p] / total <= budget and added(losses, p) == least)


def measured(seed: int, layers: int) -> Sensitivity:
    """A sensitivity with made-up losses that fall with the bits, more or less."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(layers):
        scale = np.exp(rng.normal(scale=2))
        trials = tuple(Trial(f, f, 1.0, float(scale * 4.0 ** -(f.bits + f.cascade / 4) * rng.uniform(0.5, 2)), None) for f in FORMATS)
        rows.append(LayerTrials(f"layer{k}", "Conv2d", int(rng.integers(1, 10**7)), int(rng.integers(1, 10**10)), trials))
    return Sensitivity("kl", Recipe(), tuple(rows))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS)))
def test_budget_is_kept_and_a_larger_one_is_never_worse(seed: int, unit: str) -> None:
    table = measured(seed, 12)
    top = 10.0 if unit == "stored" else 64.0
    found: list[Assignment] = [best_assignment(table, budget, unit) for budget in np.linspace(top / 4, top, 13).tolist()]
    assert all(a.average <= budget for a, budget in zip(found, np.linspace(top / 4, top, 13), strict=True))
    assert all(more.loss <= less.loss for less, more in pairwise(found))
    assert best_assignment(table, float("inf"), unit) == found[-1]
    assert found[-1].loss == sum(min(t.loss for t in layer.trials) for layer in table.layers)


def test_a_deep_network_with_unlike_layers_is_no_trouble() -> None:
    """150 layers, all of other sizes: without the bound the pairs would be too many."""
    table = measured(1, 150)
    found = best_assignment(table, 4.0)
    assert 3.99 < found.average <= 4.0  # so many layers nearly always fill the budget
    costs = [[layer.values * trial.bits for trial in layer.trials] for layer in table.layers]
    losses = np.array([[trial.loss for trial in layer.trials] for layer in table.layers])
    total = sum(layer.values for layer in table.layers)
    bound = max(float((losses + p * np.array(costs)).min(1).sum() - p * 4.0 * total) for p in np.geomspace(1e-14, 1, 2000))
    assert bound <= found.loss < bound + losses.min(1).sum() * 0.2


def network() -> nn.Module:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.ReLU()
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(192, 5)).eval()


def test_recipe_holds_the_choice_and_the_model_follows_it() -> None:
    model, x = network(), torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    table = sensitivity(model, x, FORMATS)
    found = best_assignment(table, 4.0)
    assert [name for name, _ in found.chosen] == ["2", "4"]  # first and last keep the recipe's own rules
    layers = {report.name: report for report in summary(quantize(model, x, found.recipe))}
    assert {name: trial.format for name, trial in found.chosen} == {name: layers[name].format for name in ("2", "4")}
    assert (layers["0"].format.bits, layers["7"].format.bits) == (8, 8)
    assert layers["2"].format.cascade == 0  # one channel a group: counted as plain, too
    values = {layer.name: layer.values for layer in table.layers}
    bits = {name: layers[name].format.bits + layers[name].format.state_bits for name in values}
    assert found.average == sum(values[n] * bits[n] for n in values) / sum(values.values())
    assert assign(model, x, FORMATS, 4.0) == found.recipe
    assert Recipe.from_json(found.recipe.to_json()) == found.recipe


def test_layers_with_a_rule_of_their_own_keep_it() -> None:
    model, x = network(), torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    base = Recipe(first=None, last=None, overrides=(("4", LayerRule(skip=True)),), weight_bits=6, calibration="mse")
    found = assign(model, x, [Format.plain(3), Format.plain(5)], 20.0, unit="multiplier", recipe=base)
    assert found.overrides[0] == ("4", LayerRule(skip=True))
    assert [name for name, _ in found.overrides[1:]] == ["0", "2", "7"]
    assert all((rule.weight_bits, rule.calibration) == (6, "mse") for _, rule in found.overrides[1:])
    bits = {name: rule.format.bits for name, rule in found.overrides[1:]}
    macs = {"0": 36 * 8 * 27, "2": 16 * 8 * 9, "7": 192 * 5}
    assert sum(macs[n] * bits[n] * 6 for n in macs) / sum(macs.values()) <= 20.0


class Odd(nn.ModuleDict):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.values():
            x = layer(x)
        return x


def test_names_with_wildcard_characters_mean_only_themselves() -> None:
    torch.manual_seed(0)
    names = ["a*", "ab", "[a]"]
    model = Odd({name: nn.Linear(8, 8) for name in names})
    found = assign(model, torch.rand(50, 8), FORMATS, 4.5, recipe=Recipe(first=None, last=None), loss="mse")
    chosen = [rule for _, rule in found.overrides]
    assert len(set(chosen)) > 1
    assert [found.rule(name) for name in names] == chosen


def test_refusals() -> None:
    model, x = network(), torch.randn(4, 3, 8, 8)
    with pytest.raises(FormatError, match=r"^a budget of 1.5 stored bits cannot be kept: the cheapest candidates take 3 on average$"):
        assign(model, x, [Format.plain(3), Format.plain(4)], 1.5)
    with pytest.raises(FormatError, match=r"^a budget of nan stored bits cannot be kept"):
        assign(model, x, [Format.plain(3)], float("nan"))
    with pytest.raises(FormatError, match=r"^no budget unit 'joule'; there are stored, multiplier$"):
        assign(model, x, [Format.plain(3)], 4.0, unit="joule")
