"""What the layers of a network see, for a recipe that takes its steps from no images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from overq.datafree.distill import distill
from overq.datafree.statistics import observe_statistics
from overq.errors import InputError
from overq.nn import Observations, Recipe, observe

IMAGES = 64  # that the source "distilled" makes


def seen(
    model: nn.Module, recipe: Recipe, shape: Sequence[int], count: int = IMAGES, batch_size: int = IMAGES
) -> tuple[Observations, Iterable[Tensor]]:
    """(observations, the batches that show them: none for "statistics") of a recipe's source and seed; both go to `quantize`:
    `quantize(model, samples, recipe, seen=observations)`, or `quantize(model, observations, recipe)` where there are no batches.

    shape  of one image, [C, H, W]; count: images to distil, `batch_size` at a time
    """
    if recipe.source == "images":
        raise InputError('the recipe\'s source is "images": give quantize samples')
    if recipe.source == "statistics":
        return observe_statistics(model, seed=recipe.seed), ()
    batches = distill(model, tuple(shape), count, seed=recipe.seed).split(batch_size)
    return observe(model, batches, seed=recipe.seed), batches
