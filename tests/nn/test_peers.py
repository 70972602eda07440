"""`install` and `quantize` are two ways to the same network: the same step and weights give the same bits."""

from __future__ import annotations

import copy

import pytest
import torch

from overq import Format, Recipe, quantize
from overq.methods import METHODS
from overq.methods.method import Fitted
from overq.nn import observe, peers, summary
from overq.nn.bias import Moments, observe_outputs
from overq.study import digits


@pytest.mark.parametrize("weight_bits", [8, 4])
@pytest.mark.parametrize(
    ("method", "fmt"),
    [
        (METHODS["uniform"](bits=4), Format.plain(4)),
        (METHODS["overq"](bits=3, cascade=1, fraction_bits=0), Format(3, 1, fraction_bits=0)),
        (METHODS["overq"](bits=3, cascade=4), Format(3, 4)),
        (METHODS["overq"](bits=4, cascade=2, policy="largest", lanes=8), Format(4, 2, policy="largest", lanes=8)),
    ],
)
def test_install_equals_quantize_bit_for_bit(method, fmt: Format, weight_bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With quantize's steps in place of the search's, every layer's input and the logits are equal to the last bit."""
    model, x = digits.network(), digits.images("calibration")[0]
    seen = observe(model, x)
    quantized = quantize(model, x, Recipe(fmt, weight_bits, "mse"), seen=seen)
    steps = {layer.name: layer.step for layer in summary(quantized)}
    of_sample = {id(observed.sample): steps[name] for name, observed in seen.layers.items()}
    fit = type(method).fit
    monkeypatch.setattr(type(method), "fit", lambda self, s, signed, step=None: fit(self, s, signed, step=of_sample[id(s)]))
    installed, _ = peers.install(model, seen, method, weight_bits)
    test = digits.images("test")[0][:100]
    with torch.no_grad():
        assert torch.equal(installed(test), quantized(test))


def test_install_leaves_the_given_model_as_it_was() -> None:
    model, x = digits.network(), digits.images("calibration")[0]
    before = copy.deepcopy(model.state_dict())
    installed, _ = peers.install(model, observe(model, x), METHODS["olive"](bits=4))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    hooks = [hook.fitted for module in installed.modules() for hook in module._forward_pre_hooks.values()]
    assert all(isinstance(fitted, Fitted) for fitted in hooks)
    assert hooks[0].method == hooks[-1].method == METHODS["uniform"](bits=8), "the first and the last layer keep 8 plain bits"


@pytest.mark.parametrize("method", ["uniform", "ocs_weights", "olive", "mx"])
def test_corrected_layers_have_the_float_layers_mean_and_spread(method: str) -> None:
    model, x = digits.network(), digits.images("calibration")[0]
    seen, outputs = observe(model, x), observe_outputs(model, [x])
    plain, cost = peers.install(model, seen, METHODS[method](), 4)
    corrected, same_cost = peers.install(model, seen, METHODS[method](), 4, outputs=outputs)
    assert cost == same_cost
    worst = [_worst(net, x, outputs.moments) for net in (plain, corrected)]
    assert worst[1] < 5e-3 < 0.05 < worst[0]


def _worst(net: torch.nn.Module, x: torch.Tensor, wanted: dict[str, Moments]) -> float:
    """Greatest difference of a channel's mean or spread, in units of the float layer's spread, of all channels that move."""
    got = observe_outputs(net, [x]).moments
    differences = []
    for name, target in wanted.items():
        moving = target.std > 0
        for field in ("mean", "std"):
            differences.append(((getattr(got[name], field) - getattr(target, field)) / target.std)[moving].abs().max().item())
    return max(differences)


@pytest.mark.parametrize("layer", [torch.nn.Conv2d(6, 4, 3, groups=2), torch.nn.Conv1d(6, 4, 3), torch.nn.Linear(6, 4)])
def test_large_batches_are_transformed_in_parts_and_unbatched_inputs_as_they_are(layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "AT_ONCE", 3)
    shape = {torch.nn.Conv2d: (10, 6, 5, 5), torch.nn.Conv1d: (10, 6, 5), torch.nn.Linear: (10, 6)}[type(layer)]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(layer)
    installed, _ = peers.install(model, observe(model, x), METHODS["uniform"]())
    with torch.no_grad():
        parts, one_by_one = installed(x), torch.stack([installed(image) for image in x])
    torch.testing.assert_close(parts, one_by_one, rtol=0, atol=1e-6)
