"""A tensor that several layers read has one format and one step, and is quantized once."""

import copy
import pickle

import pytest
import torch
from torch import nn

import overq
from overq import Format, LayerRule, Recipe, quantize
from overq.datafree import observe_statistics
from overq.errors import FormatError
from overq.methods import dynamic, method_of
from overq.nn import observe
from overq.nn.quantized import Quantized
from overq.tune import assign, sensitivity

OVERQ = Format(4, 4, 3, 3)
RECIPE = Recipe(OVERQ)


class Attention(nn.Module):
    """q, k and v of one tensor, k of a view of it; then a product layer, and gate and up of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.gate, self.up, self.head = nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, x):
        q, k, v = self.q(x), self.k(x.view(-1, 12)).view(x.shape), self.v(x)
        y = self.out(torch.softmax(q @ k.transpose(1, 2), -1) @ v).relu()
        return self.head(self.gate(y).relu() * self.up(y))


class Residual(nn.Module):
    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.shortcut, self.head = nn.Conv2d(8, 8, 1, 2, groups=groups), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head((self.conv(x) + self.shortcut(x)).relu().mean((2, 3)))


def seeded(make, *args):
    torch.manual_seed(0)
    return make(*args).eval()


@pytest.fixture(scope="module")
def tokens():
    return torch.randn(4, 6, 12, generator=torch.Generator().manual_seed(1))


def layers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, Quantized)}


def overwritten(model, x, monkeypatch):
    """How many tensors the model quantizes."""
    count = []
    plain = Quantized._overwritten
    monkeypatch.setattr(Quantized, "_overwritten", lambda self, x: count.append(self) or plain(self, x))
    model(x)
    monkeypatch.undo()
    return len(count)


def test_readers_of_the_first_tensor_are_first_together(tokens):
    made = layers(quantize(seeded(Attention), [tokens], RECIPE))
    for group in (("q", "k", "v"), ("gate", "up")):
        assert len({(made[name].step, made[name].format) for name in group}) == 1
    assert made["q"].format.bits == made["k"].format.bits == 8
    assert made["up"].format.bits == 4


def test_a_tensor_is_quantized_once_and_the_results_are_the_same(tokens, monkeypatch):
    model = quantize(seeded(Attention), [tokens], RECIPE)
    shared = model(tokens)
    assert overwritten(model, tokens, monkeypatch) == 5  # x for q and v, its view for k, out's, y, head's
    for layer in layers(model).values():
        layer.shared = None
    assert overwritten(model, tokens, monkeypatch) == 7
    assert torch.equal(model(tokens), shared)


@pytest.mark.parametrize("calibration", ["format-mse", "output-mse"])
def test_residual_branches_have_one_step(calibration):
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    recipe = Recipe(OVERQ, calibration=calibration, reorder=True, equalize="auto")
    for made in (recipe, recipe.with_(sequential=True)):
        found = layers(quantize(seeded(Residual), [x], made))
        conv, shortcut = found["conv"], found["shortcut"]
        assert (conv.step, conv.format, conv.shared) == (shortcut.step, shortcut.format, shortcut.shared)
        assert torch.equal(conv.lane_order, shortcut.lane_order)
    apart = layers(quantize(seeded(Residual, 2), [x], recipe))
    assert apart["conv"].shared is None  # two groups of four channels are other channel vectors


def test_data_free_steps_are_one_as_well():
    class Normed(Residual):
        def __init__(self):
            super().__init__()
            self.norm, self.last = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
            for norm in (self.norm, self.last):
                nn.init.normal_(norm.running_mean)

        def forward(self, x):
            x = self.norm(self.stem(x)).relu()
            return self.head(self.last(self.conv(x) + self.shortcut(x)).relu().mean((2, 3)))

    seen = observe_statistics(seeded(Normed))
    made = layers(quantize(seeded(Normed), seen, RECIPE))
    assert made["conv"].step == made["shortcut"].step
    assert made["conv"].shared is made["shortcut"].shared is not None


def test_observed_once(tokens):
    seen = observe(seeded(Attention), [tokens])
    assert seen.tensors == {"q": "q", "k": "q", "v": "q", "out": "out", "gate": "gate", "up": "gate", "head": "head"}
    assert seen.layers["q"] is seen.layers["v"]
    assert seen.layers["q"].values == tokens.numel()


def test_one_override_for_a_tensor_of_three_readers_is_refused(tokens):
    rule = LayerRule(Format.plain(6))
    with pytest.raises(FormatError, match=r"^layers 'q' and 'k' read the same tensor, which has one format, but the recipe has two rules"):
        quantize(seeded(Attention), [tokens], RECIPE.with_(overrides=(("k", rule),)))
    made = layers(quantize(seeded(Attention), [tokens], RECIPE.with_(overrides=(("[qkv]", rule), ("up", LayerRule(skip=True))))))
    assert {made[name].format.bits for name in "qkv"} == {6}
    assert "up" not in made
    assert made["gate"].shared is None


def test_weights_of_other_widths_share_a_tensor(tokens):
    rules = (("gate", LayerRule(OVERQ, weight_bits=4)), ("up", LayerRule(OVERQ, weight_bits=6)))
    made = layers(quantize(seeded(Attention), [tokens], RECIPE.with_(overrides=rules)))
    assert (made["gate"].weight_bits, made["up"].weight_bits) == (4, 6)
    assert made["gate"].step == made["up"].step


def alone(model, x, **change):
    """The model's answer where no layer shares anything."""
    other = copy.deepcopy(model)
    for layer in layers(other).values():
        layer.shared = None
    return other(x, **change)


def test_a_hook_or_a_change_in_place_between_two_readers_is_seen(tokens):
    class Changing(Attention):
        def forward(self, x):
            x = x + 0
            first = self.gate(x)
            x.mul_(2)
            return first + self.up(x)

    model = quantize(seeded(Changing), [tokens], Recipe(OVERQ, first=None, last=None))
    assert torch.equal(model(tokens), alone(model, tokens))
    model = quantize(seeded(Attention), [tokens], RECIPE)
    model.v.register_forward_pre_hook(lambda module, args: (args[0] * 3,))
    assert torch.equal(model(tokens), alone(model, tokens))


def test_gradients_come_from_all_readers_also_after_a_run_without(tokens):
    model = quantize(seeded(Attention), [tokens], RECIPE)
    grads = []
    for network in (model, copy.deepcopy(model)):
        if network is not model:
            for layer in layers(network).values():
                layer.shared = None
        x = tokens.clone().requires_grad_()
        with torch.no_grad():
            network.q(x)
        network.train()(x).square().sum().backward()
        grads.append(x.grad)
    assert torch.allclose(*grads, atol=1e-6)
    with torch.inference_mode():
        assert torch.equal(model.eval()(tokens.clone()), alone(model, tokens))


def test_copies_share_among_themselves(tokens, tmp_path, monkeypatch):
    model = quantize(seeded(Attention), [tokens], RECIPE)
    model.q(tokens)
    overq.save(model, tmp_path / "m.safetensors")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), overq.load(tmp_path / "m.safetensors", seeded(Attention))):
        assert other.q.shared is other.v.shared is not model.q.shared
        assert other.gate.shared is other.up.shared is not other.q.shared
        assert torch.equal(other(tokens), model(tokens))
        assert overwritten(other, tokens, monkeypatch) == 5


def test_a_state_dict_with_another_step_for_one_reader_is_kept_to(tokens):
    model, other = (quantize(seeded(Attention), [tokens * scale], RECIPE) for scale in (1, 3))
    state = model.state_dict()
    state["v._extra_state"] = other.state_dict()["v._extra_state"]
    model.load_state_dict(state)
    assert model.v.step == other.v.step != model.q.step
    assert torch.equal(model(tokens), alone(model, tokens))


def test_an_assignment_gives_the_readers_of_a_tensor_one_format(tokens):
    model, base = seeded(Attention), Recipe(OVERQ, first=None, last=None)
    recipe = assign(model, [tokens], [Format.plain(bits) for bits in (3, 5, 8)], 5, recipe=base)
    made = layers(quantize(model, [tokens], recipe))
    assert len({made[name].format for name in "qkv"}) == 1
    assert made["gate"].step == made["up"].step
    measured = sensitivity(model, [tokens], [Format.plain(4)], recipe=RECIPE)
    assert [layer.name for layer in measured.layers] == ["out", "gate", "up"]  # q, k and v read the first tensor


@pytest.mark.parametrize("group", [None, 4])
@pytest.mark.parametrize("layer", [nn.Linear(12, 5), nn.Conv2d(12, 4, 1, groups=2)], ids=["Linear", "Conv2d"])
def test_dynamic_steps_are_the_method_s_own_on_every_path(layer, group) -> None:
    x = torch.randn((2, 5, 12) if isinstance(layer, nn.Linear) else (2, 12, 3, 3), generator=torch.Generator().manual_seed(3))
    x[0, 0] *= 1e3
    dim, groups = (-1, 1) if isinstance(layer, nn.Linear) else (1, 2)
    q = quantize(nn.Sequential(layer), [x], Recipe(dynamic(method_of(OVERQ), "rms", group), first=None, last=None))
    wanted = torch.cat([q[0].fitted(part, axis=dim) for part in x.chunk(groups, dim)], dim)
    with torch.no_grad():
        assert torch.equal(q[0].quantize_input(x), wanted)
    assert torch.equal(q[0].quantize_input(x.clone().requires_grad_()).detach(), wanted)
    assert torch.equal(torch.compile(q, backend="eager")(x), q(x))
