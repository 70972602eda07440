"""Assignment: for every layer the format that keeps the sum of the layers' losses least under a budget of bits. Exact.

Losses are those of `sensitivity`, each layer alone; layers that read one tensor get one format. That losses add up is an assumption,
which the benchmark tests by measuring the whole model. The choice itself is a multiple-choice knapsack, solved exactly by dynamic
programming over the undominated (cost, loss) pairs of the first k layers; a Lagrangian bound drops pairs that no completion can make best.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from overq.errors import FormatError
from overq.nn.convert import DEFAULT_RECIPE
from overq.nn.recipe import Recipe
from overq.spec import Format
from overq.tune.sensitivity import LayerTrials, Sensitivity, Trial, rule_for, sensitivity

# What a layer's trial costs in all: unit -> (weight of the layer, bits of the trial given weight bits).
UNITS: dict[str, tuple[Callable[[LayerTrials], int], Callable[[Trial, int], float]]] = {
    "stored": (lambda layer: layer.values, lambda trial, weight_bits: trial.bits),
    "multiplier": (lambda layer: layer.macs, lambda trial, weight_bits: trial.format.bits * weight_bits),
}


@dataclass(frozen=True)
class Assignment:
    """One trial chosen for each layer of the sensitivity.

    recipe   the base recipe with an override for each layer
    average  in the budget's unit, over the layers assigned; a stored tensor counts once
    loss     sum of the layers' losses, each alone
    """

    recipe: Recipe
    chosen: tuple[tuple[str, Trial], ...]
    average: float
    loss: float


def assign(
    model: nn.Module,
    samples: Any,
    candidates: Sequence[Format],
    budget: float,
    *,
    unit: str = "stored",
    recipe: Recipe = DEFAULT_RECIPE,
    **options: Any,
) -> Recipe:
    """`recipe` with an override for each layer that had no rule of its own, the best under the budget.

    budget   at most so many bits on average, by unit:
             "stored"      bits of an activation value, states included, weighted by values (a layer's input, once)
             "multiplier"  activation bits × weight bits of a multiplication, weighted by multiplications
    options  of `sensitivity`: seen, loss, forward, progress

    Raises FormatError where even the cheapest candidates exceed the budget; and what `sensitivity` raises.
    """
    unit_of(unit)
    return best_assignment(sensitivity(model, samples, candidates, recipe=recipe, **options), budget, unit).recipe


def best_assignment(measured: Sensitivity, budget: float, unit: str = "stored") -> Assignment:
    """The assignment with the least sum of losses under the budget; one sensitivity serves any number of budgets."""
    weight, bits = unit_of(unit)
    base = measured.recipe
    tensors: dict[str, list[LayerTrials]] = {}  # layers that read one tensor get one format
    for layer in measured.layers:
        tensors.setdefault(layer.tensor or layer.name, []).append(layer)
    groups = list(tensors.values())
    # In half bits, which are whole: a pair of lanes may share a state bit.
    weights = [weight(group[0]) if unit == "stored" else sum(map(weight, group)) for group in groups]  # a tensor is stored once
    costs = [[w * round(2 * bits(t, base.weight_bits)) for t in group[0].trials] for w, group in zip(weights, groups, strict=True)]
    total = 2 * sum(weights)
    losses = [[sum(layer.trials[i].loss for layer in group) for i in range(len(group[0].trials))] for group in groups]
    least = sum(min(row) for row in costs) / total
    if not budget >= least:
        raise FormatError(f"a budget of {budget:g} {unit} bits cannot be kept: the cheapest candidates take {least:.4g} on average")
    picks = least_loss(costs, losses, budget, total)
    pick_of = {layer.name: pick for group, pick in zip(groups, picks, strict=True) for layer in group}
    chosen = tuple((layer.name, layer.trials[pick_of[layer.name]]) for layer in measured.layers)
    overrides = tuple((glob.escape(name), rule_for(base, trial.candidate)) for name, trial in chosen)
    spent = sum(row[pick] for row, pick in zip(costs, picks, strict=True))
    return Assignment(base.with_(overrides=base.overrides + overrides), chosen, spent / total, sum(trial.loss for _, trial in chosen))


def unit_of(unit: str) -> tuple[Callable[[LayerTrials], int], Callable[[Trial, int], float]]:
    """The entry of UNITS; FormatError where there is none."""
    if unit not in UNITS:
        raise FormatError(f"no budget unit {unit!r}; there are {', '.join(UNITS)}")
    return UNITS[unit]


def least_loss(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], budget: float, total: int) -> list[int]:
    """For each layer the index of its choice, such that Σ cost / total <= budget and Σ loss (added in order) is least.

    costs, losses: one row for each layer, one entry for each choice; losses finite. Equal losses: the cheaper choice. A budget below the
    cheapest choices is the caller's error.
    """
    rows = [(np.asarray(c, np.int64), np.asarray(v, np.float64)) for c, v in zip(costs, losses, strict=True)]
    budget = min(budget, sum(max(row) for row in costs) / total)  # no more can be spent; an infinite one is then finite
    price, ceiling = _multiplier(rows, budget, total)
    # What layers k, k+1, … cost and lose at least; the last entry is for none left.
    rest_cost = np.cumsum([0] + [int(c.min()) for c, _ in rows[::-1]])[::-1]
    rest_bound = np.cumsum([0.0] + [float((v + price * c).min()) for c, v in rows[::-1]])[::-1]
    # The bound is rounded, but the sums of losses are what counts: drop nothing that is so near.
    slack = 1e-12 * (sum(float(np.abs(v).max()) for _, v in rows) + price * (budget * total + sum(float(c.max()) for c, _ in rows)))
    cost, loss = np.zeros(1, np.int64), np.zeros(1)
    trail: list[tuple[np.ndarray, np.ndarray]] = []  # of each state that stayed: its parent, its choice
    for k, (c, v) in enumerate(rows):
        sums, lost = (cost[:, None] + c).ravel(), (loss[:, None] + v).ravel()
        may = (sums + rest_cost[k + 1]) / total <= budget
        may &= lost + rest_bound[k + 1] + price * (sums - budget * total) <= ceiling + slack
        index = np.flatnonzero(may)
        index = index[np.lexsort((lost[index], sums[index]))]
        before = np.minimum.accumulate(np.concatenate([[np.inf], lost[index]]))[:-1]
        index = index[lost[index] < before]  # cheaper states that lose no more came earlier
        cost, loss = sums[index], lost[index]
        trail.append((index // len(c), index % len(c)))
    state, picks = len(loss) - 1, []  # the last undominated state costs most and loses least
    for parent, choice in reversed(trail):
        picks.append(int(choice[state]))
        state = int(parent[state])
    return picks[::-1]


def _multiplier(rows: list[tuple[np.ndarray, np.ndarray]], budget: float, total: int) -> tuple[float, float]:
    """(price of a bit, loss of a choice that keeps the budget): the least price, by bisection, at which layers choosing alone keep it."""

    def at(price: float) -> tuple[bool, float]:
        spent = lost = 0.0
        for c, v in rows:
            pick = np.lexsort((c, v + price * c))[0]
            spent, lost = spent + float(c[pick]), lost + float(v[pick])
        return spent / total <= budget, lost

    if at(0.0)[0]:
        return 0.0, at(0.0)[1]
    # Costs are integers, so one step down in cost is worth at most all that can be lost: at this price the cheapest are chosen.
    low, high = 0.0, 1.0 + 2 * max(float(np.ptp(v)) for _, v in rows)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle)[0] else (middle, high)
        if high - low <= 1e-6 * high:
            break
    return high, at(high)[1]
