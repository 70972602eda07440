"""Integer layers and networks against the definition, exact fractions and the float-scaled simulation."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import overq
from overq.errors import FormatError, InputError
from overq.integer import integer_layer, integer_network, scaling
from overq.integer.scaling import MULTIPLIER_BITS
from overq.integer.steps import steps
from overq.methods import METHODS
from overq.nn import LayerRule, Recipe
from overq.nn.graph import read
from overq.nn.quantized import quantize_layer
from overq.spec import Format, dot, encode
from overq.study import digits

FORMATS = [Format(4, 4), Format(3, 2, fraction_bits=0, lanes=3), Format(4, 3, policy="largest", signed=True), Format.plain(5)]
ids = [f"{'s' if f.signed else 'u'}{f.bits} c={f.cascade}" for f in FORMATS]


def random_t(shape: tuple[int, ...], fmt: Format, seed: int = 0) -> torch.Tensor:
    """Integers with zeros, ordinary values, outliers and values beyond the range."""
    rng = np.random.default_rng(seed)
    t = rng.integers(fmt.digit_min * fmt.unit, fmt.digit_max * fmt.unit, shape)
    t = np.where(rng.random(shape) < 0.2, rng.integers(fmt.t_min, 2 * fmt.t_max, shape), t)
    return torch.from_numpy(np.where(rng.random(shape) < 0.4, 0, t))


@pytest.mark.parametrize("fmt", FORMATS, ids=ids)
@pytest.mark.parametrize("groups", [1, 2])
def test_accumulators_are_the_definitions_dot_products(fmt: Format, groups: int) -> None:
    torch.manual_seed(1)
    conv = nn.Conv2d(8, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=groups)
    layer = integer_layer("conv", quantize_layer(conv, 8, 0.1, fmt), 8)
    t = random_t((2, 8, 5, 6), fmt)
    total = layer.accumulate(t)
    assert total.shape == F.conv2d(t.double(), conv.weight.double(), None, *conv_arguments(conv)).shape
    padded, each = F.pad(t, (0, 0, 1, 1)), 8 // groups
    for n, o, y, x in np.ndindex(*total.shape):
        channels = slice(o * groups // 6 * each, (o * groups // 6 + 1) * each)
        expected = 0
        for ky, kx in np.ndindex(3, 2):
            lanes = encode(padded[n, channels, 2 * y + ky, x + 2 * kx].tolist(), fmt)
            expected += dot(lanes, layer.weights[o, :, ky, kx].tolist(), fmt)
        assert total[n, o, y, x] == expected


def conv_arguments(conv: nn.Conv2d) -> tuple[Any, ...]:
    return conv.stride, conv.padding, conv.dilation, conv.groups


@pytest.mark.parametrize("fmt", FORMATS, ids=ids)
def test_a_linear_layer_and_the_derived_width(fmt: Format) -> None:
    """The largest sum that weights and data can make needs no more than sum_bits."""
    linear = quantize_layer(nn.Linear(6, 2), 4, 0.1, fmt)
    linear.weight_integers.fill_(-8)
    layer = integer_layer("fc", linear, 4)
    for t in (random_t((50, 6), fmt), torch.tensor([[fmt.t_max, 0] * 3]), torch.full((1, 6), fmt.t_max), torch.full((1, 6), fmt.t_min)):
        total = layer.accumulate(t)
        rows = [encode(row, fmt) for row in t.tolist()]
        assert total[:, 0].tolist() == [dot(lanes, [-8] * 6, fmt) for lanes in rows]
        assert int(total.abs().max()) < 2 ** (layer.sum_bits - 1)


def test_scaling_is_the_exact_rational_and_near_the_real_product() -> None:
    rng = np.random.default_rng(3)
    factors = [*(10.0 ** rng.uniform(-7, 3, 40)), 0.0, 1.0, 0.25, 2.0**-60]
    offsets = [*(rng.standard_normal(40) * 1e4), 3.7, -2.0, 0.0, 1e6]
    made = scaling(factors, offsets, 30)
    x = torch.from_numpy(rng.integers(-(2**29), 2**29, (200, len(factors))))
    got = made(x, 1)
    assert int(made.multiplier.max()) < 2**MULTIPLIER_BITS
    for c, (factor, offset) in enumerate(zip(factors, offsets, strict=True)):
        m, b, s = (int(v[c]) for v in (made.multiplier, made.offset, made.shift))
        assert got[:, c].tolist() == [math.floor(Fraction(v * m + b, 2**s)) for v in x[:, c].tolist()]
        real = x[:, c].double() * factor + offset
        error = (got[:, c].double() - real.floor()).abs()
        allowed = 2 + (x[:, c].double().abs() * factor + abs(offset)) * 2.0 ** -(MULTIPLIER_BITS - 1)
        assert bool((error <= allowed).all()), (factor, offset)


def test_a_factor_that_no_shift_can_make_is_refused() -> None:
    with pytest.raises(FormatError, match=r"^a factor of 1e\+06 .* cannot be a 16-bit multiplier"):
        scaling([1e6], [0.0], 30)
    with pytest.raises(FormatError, match=r"^numbers of 60 bits"):
        scaling([1.0], [0.0], 60)


class Everything(nn.Module):
    """One of each operation, a negative batch-norm scale among them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False, groups=2)
        self.bn2 = nn.BatchNorm2d(6)
        self.conv3 = nn.Conv2d(6, 4, 1)
        self.pools = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.max_pool, self.avg_pool = self.pools
        self.fc = nn.Linear(22, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.max_pool(F.relu(self.bn1(self.conv1(x))))
        y = F.relu(self.bn2(self.conv2(x)) + x)
        y = torch.cat([self.conv3(y), F.pad(x[:, :, ::1], (0, 0, 0, 0, 3, 3))], 1)
        y = self.avg_pool(F.max_pool2d(y, 3, 1, 1))
        return self.fc(torch.cat([y.mean((2, 3)), y[:, 2:8].mean((2, 3))], 1))


def everything() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(2)
    model, x = Everything(), torch.randn(24, 3, 8, 8)
    for norm in (model.bn1, model.bn2):
        norm.weight.data.uniform_(-1.5, 1.5)
        norm.bias.data.normal_()
    with torch.no_grad():
        model(x)  # fills the running statistics
    return model.eval(), x


@pytest.mark.parametrize("corrected", [False, True])
def test_every_operation_follows_the_simulation(corrected: bool) -> None:
    """With 8 plain bits the only difference is rounding in the scales: far below the logits' spread."""
    model, x = everything()
    edge = LayerRule(Format.plain(8), calibration="max")
    quantized = overq.quantize(model, [x], Recipe(Format.plain(8), calibration="max", first=edge, last=edge, bias_correction=corrected))
    net = integer_network(quantized)
    with torch.no_grad():
        expected = quantized(x)
    got = net(x)
    assert got.dtype == torch.int64
    assert float((got * net.unit - expected).abs().max()) < 0.05 * float(expected.std())


class NoFloats(TorchDispatchMode):
    """Fails where an operation takes or gives a floating tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in (*args, result):
            assert not (isinstance(value, torch.Tensor) and value.is_floating_point()), func
        return result


def digits_network(fmt: Format) -> nn.Module:
    return overq.quantize(digits.network(), digits.images("calibration")[0], Recipe(fmt))


def test_no_float_tensor_between_input_and_logits() -> None:
    net = integer_network(digits_network(Format(4, 4)))
    t = net.enter(digits.images("test")[0][:5])
    with NoFloats():
        net.run(t)
    with pytest.raises(AssertionError), NoFloats():
        net.run(t) * 1.0  # the watch itself works


@pytest.mark.parametrize("fmt", [Format(4, 4), Format(3, 2, fraction_bits=0), Format.plain(8)], ids=["full", "range 3", "plain 8"])
def test_the_digits_network_in_integers(fmt: Format) -> None:
    """Top-1 within one point of the simulation, and the same answer for at least 98 of 100 images."""
    quantized = digits_network(fmt)
    net = integer_network(quantized)
    x, labels = digits.images("test")
    with torch.no_grad():
        simulated = quantized(x).argmax(1)
    answers = net(x).argmax(1)
    top1 = [float((a == labels).double().mean()) for a in (answers, simulated)]
    assert abs(top1[0] - top1[1]) <= 0.01
    assert float((answers == simulated).double().mean()) >= 0.98


def test_the_watch_sees_every_layers_integers() -> None:
    net = integer_network(digits_network(Format(4, 4)))
    seen = []
    x = digits.images("test")[0][:2]
    net.run(net.enter(x), lambda layer, t, total: seen.append((layer.name, torch.equal(layer.accumulate(t), total))))
    assert seen[0][0] == "stem.0"
    assert seen[-1][0] == "classifier"
    assert len(seen) == 28
    assert all(same for _, same in seen)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.sigmoid(), r"^operation 'sigmoid' \(sigmoid\) has no integer form$"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], r"^operation .* has no integer form: option return_indices=True"),
        (lambda x: x if x.sum() > 0 else -x, r"^the model cannot be traced"),
        (lambda x: (x, x), r"more than one tensor"),
    ],
)
def test_what_has_no_integer_form_is_named(change: Any, words: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> Any:
            return change(self.conv(x))

    quantized = overq.quantize(Net(), torch.randn(4, 2, 6, 6))
    with pytest.raises(InputError, match=words):
        integer_network(quantized)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 0), (3, 2, 1), (2, 3, 1), ((2, 3), (1, 4), (0, 1)), (2, 2, 1)])
def test_greatest_of_a_window_is_the_frameworks(kernel: Any, stride: Any, padding: Any, ceil: bool) -> None:
    """Also where ceil_mode's last window sticks out of the map."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.max_pool2d(self.conv(x), kernel, stride, padding, ceil_mode=ceil)

    (pool,) = (s for s in steps(read(overq.quantize(Net(), torch.randn(4, 2, 6, 6)))) if s.name == "max_pool2d")
    assert pool.apply is not None
    for high, wide in ((5, 6), (6, 7), (7, 9), (8, 8)):
        x = torch.randint(-99, 99, (2, 2, high, wide))
        assert torch.equal(pool.apply(1.0, x).double(), F.max_pool2d(x.double(), kernel, stride, padding, ceil_mode=ceil))


def test_a_layer_left_in_float_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    quantized = overq.quantize(model, torch.randn(4, 2, 6, 6), Recipe(overrides=(("2", LayerRule(skip=True)),)))
    with pytest.raises(InputError, match=r"\(Conv2d\) has no integer form"):
        integer_network(quantized)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_integers_or_says_that_it_has_none(name: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)).eval(), torch.randn(16, 3, 6, 6)
    quantized = overq.quantize(model, x, Recipe(METHODS[name](), first=None, last=None))
    if name in ("uniform", "overq", "ocs_weights"):
        net = integer_network(quantized)
        assert net.sqnr is not None
        assert net.sqnr > 40
        assert all(int(layer.weights.abs().max()) <= 1 << (layer.weight_bits - 1) for layer in net.layers.values())
    else:
        with pytest.raises(FormatError, match=r"^layer '0': integers are for methods with OverQ's or plain digits, not for "):
            integer_network(quantized)
