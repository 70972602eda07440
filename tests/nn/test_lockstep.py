"""Runs side by side: a layer changed for all of them at once, in one pass, as if they were one batch."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import overq
from overq import Format, Recipe
from overq.nn.bias import observe_outputs
from overq.nn.lockstep import lockstep

LENGTHS = (3, 5, 2, 7, 5)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def test_every_layer_meets_all_runs_once_and_in_order() -> None:
    model, met = network(), []
    inputs = [torch.randn(n, 6) for n in LENGTHS]
    answers: dict[int, torch.Tensor] = {}

    def meet(layer: nn.Module, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        met.append((layer, [len(y) for y in outputs]))
        mean = torch.cat(outputs).mean(0)
        return [y - mean for y in outputs]

    def run(i: int) -> None:
        answers[i] = model(inputs[i])

    lockstep([lambda i=i: run(i) for i in range(len(inputs))], [model[0], model[2]], meet)
    assert met == [(model[0], list(LENGTHS)), (model[2], list(LENGTHS))]
    x = torch.cat(inputs)
    for layer in (0, 2):
        y = model[layer](x)
        x = torch.relu(y - y.mean(0))
    assert torch.allclose(torch.cat([answers[i] for i in range(5)]), model[4](x), atol=1e-6)
    assert not model[0]._forward_hooks


def test_runs_that_skip_a_layer_do_not_hold_up_the_others() -> None:
    model, met = network(), []

    def meet(layer: nn.Module, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        met.append((layer, len(outputs)))
        return outputs

    runs = [lambda: model(torch.randn(2, 6)), lambda: model[2](torch.randn(2, 8)), lambda: None]
    lockstep(runs, [model[0], model[2], model[4]], meet)
    assert met == [(model[0], 1), (model[2], 2), (model[4], 1)]


@pytest.mark.parametrize("where", ["run", "meet"])
def test_an_error_ends_all_runs(where: str) -> None:
    model, before = network(), threading.active_count()

    def meet(layer: nn.Module, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        if where == "meet" and layer is model[2]:
            raise ValueError("in meet")
        return outputs

    def bad() -> None:
        model(torch.randn(2, 6))
        raise ValueError("in run")

    with pytest.raises(ValueError, match=f"^in {where}$"):
        lockstep([lambda: model(torch.randn(2, 6)), bad, lambda: model(torch.randn(2, 6))], [model[0], model[2]], meet)
    assert threading.active_count() == before
    assert not model[2]._forward_hooks


@pytest.mark.parametrize("shared", [False, True])
def test_sentences_of_many_lengths_are_corrected_as_one(shared: bool) -> None:
    model = network()
    if shared:
        model = nn.Sequential(model[0], model[1], model[2], model[3], model[2], model[4])
    samples = [torch.randn(4, n, 6) for n in LENGTHS]
    recipe = Recipe(Format.plain(3), 4, first=None, last=None, bias_correction=True)
    quantized = overq.quantize(model, samples, recipe)
    wanted, got = (observe_outputs(net, samples) for net in (model, quantized))
    assert len(wanted.chosen.units) == len(LENGTHS)
    for name, target in wanted.moments.items():
        if not shared or name == "0":
            assert torch.allclose(got.moments[name].mean, target.mean, rtol=0, atol=1e-4 * target.std.max().item())
            assert torch.allclose(got.moments[name].std, target.std, rtol=1e-3)
    plain = observe_outputs(overq.quantize(model, samples, recipe.with_(bias_correction=False)), samples)
    for name, target in wanted.moments.items():
        assert (got.moments[name].mean - target.mean).norm() < (plain.moments[name].mean - target.mean).norm()
