"""Distilled images: their batch norm statistics approach the running ones; the same seed gives the same images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from overq import Format, Recipe, datafree
from overq.datafree import distill, observe_statistics
from overq.errors import CalibrationError, InputError
from overq.nn import quantize


def network() -> nn.Sequential:
    """A small network with the statistics that smooth images of mean 0.3 leave in it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(512, 2),
    )
    coarse = torch.randn(256, 3, 2, 2, generator=torch.Generator().manual_seed(1)) + 0.3
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.momentum = 1.0
        model(nn.functional.interpolate(coarse, size=8, mode="bilinear"))
    return model.eval()


def distance(model: nn.Sequential, x: torch.Tensor) -> float:
    """Mean squared error of the channels' means and deviations before both norms, in running deviations."""
    total = 0.0
    with torch.no_grad():
        for norm, inputs in ((model[1], model[:1](x)), (model[4], model[:4](x))):
            deviation = norm.running_var.sqrt()
            total += ((inputs.mean((0, 2, 3)) - norm.running_mean) / deviation).square().mean().item()
            total += (inputs.std((0, 2, 3)) / deviation - 1).square().mean().item()
    return total


def test_images_match_the_statistics_and_more_steps_match_better() -> None:
    model = network()
    noise, few, many = (distill(model, (3, 8, 8), 32, steps=steps) for steps in (1, 20, 100))
    assert many.shape == (32, 3, 8, 8)
    assert many.abs().max() <= 3
    assert distance(model, many) < 0.5 * distance(model, few) < 0.25 * distance(model, noise)


def test_the_seed_decides_and_the_model_is_left_alone() -> None:
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, again, other = (distill(model, (3, 8, 8), 20, seed=seed, steps=3, batch_size=16) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_distilled_images_calibrate() -> None:
    model = network()
    quantized = quantize(model, distill(model, (3, 8, 8), 16, steps=5))
    assert quantized(torch.zeros(1, 3, 8, 8)).shape == (1, 2)


def test_refusals() -> None:
    folded = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(
        CalibrationError, match="^data-free calibration: none of the 1 batch norms is usable: '1' has mean 0 and variance 1"
    ):
        distill(folded, (3, 8, 8), 4)
    with pytest.raises(CalibrationError, match="^data-free calibration: the model has no batch norm; give calibration images"):
        distill(nn.Conv2d(3, 4, 3), (3, 8, 8), 4)
    with pytest.raises(InputError, match=r"^the model does not take images of shape \[4, 8, 8\]: "):
        distill(network(), (4, 8, 8), 4)
    with pytest.raises(InputError, match="^count, steps and batch_size must be at least 1, not 0, 100 and 64$"):
        distill(network(), (3, 8, 8), 0)


def test_a_recipe_says_that_its_steps_come_from_no_images() -> None:
    model, images = network(), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    recipe = Recipe(Format(4), source="statistics", seed=3)
    seen, samples = datafree.seen(model, recipe, ())
    assert samples == ()
    quantized, expected = (quantize(model, given, r) for given, r in ((seen, recipe), (observe_statistics(model, seed=3), Recipe(seed=3))))
    with torch.no_grad():
        assert torch.equal(quantized(images), expected(images))
    with pytest.raises(InputError, match='^the recipe\'s source is "statistics": quantize what overq.datafree.seen'):
        quantize(model, images, recipe)
    with pytest.raises(InputError, match='^the recipe\'s source is "images": give quantize samples$'):
        datafree.seen(model, Recipe(), ())
    assert Recipe.from_json(recipe.to_json()) == recipe
