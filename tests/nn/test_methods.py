"""Every method in a whole network: one `quantize`, the same layers, weights, corrections and files for all."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from overq import Format, Recipe, quantize
from overq.datafree import observe_statistics
from overq.methods import METHODS
from overq.nn import Quantized, observe, observe_sequentially, spelled, summary
from overq.nn.bias import Moments, observe_outputs
from overq.nn.cost import cost_of
from overq.study import digits

X = digits.images("calibration")[0][:60]
TEST = digits.images("test")[0][:60]
SEEN = observe(digits.network(), [X])
ONES = {"mx": {"element": "int8"}}


@pytest.mark.parametrize("name", METHODS)
def test_a_network_of_any_method_computes_what_its_parts_say(name: str) -> None:
    """Layer by layer: the float layer over what the fitted method makes of its input, with the method's weights."""
    model, method = digits.network(), METHODS[name](**ONES.get(name, {}))
    q = quantize(model, [X], Recipe(method, 4), seen=SEEN)
    found = [m for m in q.modules() if isinstance(m, Quantized)]
    assert {type(layer.fitted.method) for layer in found[1:-1]} == {type(method)}
    assert found[0].fitted.method == found[-1].fitted.method == METHODS["uniform"](8), "the first and the last layer keep 8 plain bits"
    inputs: dict[str, torch.Tensor] = {}
    names = {module: name for name, module in q.named_modules()}
    for layer in found:
        layer.register_forward_hook(lambda m, args, out: inputs.update({names[m]: args[0]}))
    with torch.no_grad():
        q(TEST)
        for where, x in inputs.items():
            layer, reference = q.get_submodule(where), copy.deepcopy(model.get_submodule(where))
            reference.weight.data = layer.fitted.method.weights(reference.weight.data, layer.weight_bits)
            assert torch.equal(layer(x), reference(layer.fitted(x, axis=1)))


def small() -> nn.Sequential:
    torch.manual_seed(0)
    blocks = [(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()) for i, o in ((1, 8), (8, 16), (16, 8))]
    model = nn.Sequential(*(part for block in blocks for part in block), nn.Flatten(), nn.Linear(8 * 64, 10)).eval()
    for norm in (m for m in model if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("name", METHODS)
def test_every_transform_works_with_every_method(name: str) -> None:
    method = METHODS[name](**ONES.get(name, {}))
    recipe = Recipe(method, 4, reorder=True, equalize=0.5, bias_correction=True, sequential=True)
    q = quantize(small(), [X[:8]], recipe)
    notes = [r.note for r in summary(q).layers][1:-1]
    assert all("equalized 0.5" in note and "bias corrected" in note for note in notes)
    assert all(("reordered" in note) == method.neighbours for note in notes)
    assert summary(quantize(small(), observe_statistics(small()), Recipe(method))).layers[1].method == method.describe()
    assert torch.isfinite(q(TEST)).all()
    assert method.format(False) is not None or method.describe()[:6] in str(summary(q))


@pytest.mark.parametrize("name", ["sparq", "olive", "overq"])
def test_sequential_observation_sees_the_layers_before_in_the_recipe_s_method(name: str) -> None:
    recipe = Recipe(METHODS[name](3), sequential=True)
    q = quantize(small(), [X], recipe)
    seen = observe_sequentially(small(), [X], recipe)
    by_hand = quantize(small(), [X], recipe.with_(sequential=False), seen=seen)
    assert torch.equal(q(TEST), by_hand(TEST))
    assert not torch.equal(q(TEST), quantize(small(), [X], recipe.with_(sequential=False))(TEST))


@pytest.mark.parametrize("name", ["uniform", "ocs_weights", "olive", "mx"])
def test_corrected_layers_have_the_float_layers_mean_and_spread(name: str) -> None:
    model, x = small(), X
    outputs = observe_outputs(model, [x])
    plain, corrected = (quantize(model, [x], Recipe(METHODS[name](), 4, bias_correction=on)) for on in (False, True))
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


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 4, 3, groups=2), nn.Conv1d(6, 4, 3), nn.Linear(6, 4)])
@pytest.mark.parametrize("name", ["olive", "overq"])
def test_large_batches_are_transformed_in_parts_and_unbatched_inputs_as_they_are(layer, name, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spelled, "AT_ONCE", 3)
    shape = {nn.Conv2d: (10, 6, 5, 5), nn.Conv1d: (10, 6, 5), nn.Linear: (10, 6)}[type(layer)]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    q = quantize(nn.Sequential(layer), [x], Recipe(METHODS[name](), first=None, last=None))
    with torch.no_grad():
        parts, one_by_one = q(x), torch.stack([q(image) for image in x])
    torch.testing.assert_close(parts, one_by_one, rtol=0, atol=1e-6)


def test_lanes_of_a_rival_never_cross_a_group() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(6, 4, 1, groups=2), torch.randn(20, 6, 5, 5) * torch.tensor([9.0, 1, 1, 9, 1, 1]).view(6, 1, 1)
    q = quantize(nn.Sequential(layer), [x], Recipe(METHODS["olive"](), first=None, last=None))
    parts = [q[0].fitted(part, axis=1) for part in x.chunk(2, 1)]
    assert torch.equal(q[0].quantize_input(x), torch.cat(parts, 1))


def test_depthwise_layers_have_no_neighbours_whatever_the_method() -> None:
    model, x = nn.Sequential(nn.Conv2d(6, 6, 3, groups=6)), torch.randn(20, 6, 5, 5)
    for name in METHODS:
        q = quantize(model, [x], Recipe(METHODS[name](**ONES.get(name, {})), first=None, last=None))
        assert type(q[0].fitted.method).__name__ == "Uniform"
        note = summary(q).layers[0].note
        assert note == ("" if name == "uniform" else "one channel a group: plain")


def test_costs_are_the_mean_over_values_between_the_edges() -> None:
    model = digits.network()
    q = quantize(model, [X], Recipe(METHODS["sparq"](3), 4), seen=SEEN)
    cost = cost_of(q, SEEN)
    assert (cost.payload_bits, cost.metadata_bits, cost.weight_bits) == (3, 3.5, 4)
    split = cost_of(quantize(model, [X], Recipe(METHODS["ocs_activations"](3), 4), seen=SEEN), SEEN)
    assert 0.02 < split.extra_lanes < 0.1
    assert cost_of(quantize(model, [X], Recipe(Format(3, 4)), seen=SEEN), SEEN).bits == 4
    one = nn.Sequential(nn.Linear(4, 4))
    seen = observe(one, torch.randn(9, 4))
    assert cost_of(quantize(one, seen), seen).payload_bits == 8, "a network of edges only is counted by them"


def test_steps_and_orders_are_searched_once_for_all_weight_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    from overq.nn import fit

    model, calls = small(), []
    monkeypatch.setattr(fit, "lane_order", lambda *a, real=fit.lane_order: (calls.append(1), real(*a))[1])
    seen = observe(model, [X[:8]])
    recipe = Recipe(Format(3, 4), 8, reorder=True)
    first = quantize(model, [X[:8]], recipe, seen=seen)
    found = len(calls)
    again = quantize(model, [X[:8]], recipe.with_(weight_bits=4), seen=seen)
    assert found == len(calls) > 0
    fresh = quantize(model, [X[:8]], recipe.with_(weight_bits=4))
    assert torch.equal(again(TEST), fresh(TEST))
    assert not torch.equal(again(TEST), first(TEST))
