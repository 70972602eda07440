"""One tensor, one format: layers that read the same tensor get one method, step and arrangement of its channels (design, section 1.6)."""

from __future__ import annotations

from itertools import pairwise

from overq.errors import FormatError
from overq.nn.observation import Observations
from overq.nn.recipe import LayerRule, Recipe


def readers(seen: Observations) -> dict[str, tuple[str, ...]]:
    """Name of every layer -> all layers that read the same channel vectors, in the order they run; itself alone where no other does."""
    groups: dict[str, list[str]] = {}
    for name in seen.layers:
        groups.setdefault(seen.tensors.get(name, name), []).append(name)
    return {name: tuple(group) for group in groups.values() for name in group}


def rules_of(recipe: Recipe, seen: Observations) -> dict[str, LayerRule]:
    """The rule of each layer reached: the recipe's first and last go to all that read the first and the last layer's tensor.

    FormatError where overrides give the readers of a tensor different rules, weights aside; a layer may be skipped.
    """
    together, names = readers(seen), list(seen.layers)
    rules = {name: recipe.rule(name, first=names[0] in together[name], last=names[-1] in together[name]) for name in names}
    for group in together.values():
        for one, other in pairwise(name for name in group if not rules[name].skip):
            if rules[one].of_input != rules[other].of_input:
                raise FormatError(
                    f"layers {one!r} and {other!r} read the same tensor, which has one format, but the recipe has two rules for it: "
                    "let an override match both or none"
                )
    return rules
