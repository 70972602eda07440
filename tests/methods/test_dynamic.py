"""Dynamic steps: any method with one step for each vector, or group of lanes."""

import numpy as np
import pytest
import torch
from method_cases import cases, long_tailed

from overq import Format, Recipe, kernels, quantize, summary
from overq.errors import FormatError, InputError
from overq.kernels import scale
from overq.methods import METHODS, Dynamic, OverQ, Uniform, fitted_from_json, fitted_to_json, method_from_json, method_to_json
from overq.nn.recipe import EDGE, LayerRule

STATIC = [case for case in cases() if not case.values[0].stepless]


@pytest.mark.parametrize("method", STATIC)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_where_steps_are_equal_static_and_dynamic_give_the_same_bits(method, signed):
    """Rows scaled to one greatest magnitude have one step; powers of two, so that the statistic is exact."""
    x = long_tailed(rows=40, signed=signed)
    x = np.concatenate([x, np.where(np.arange(45) == 7, 1, 0)[None].astype(np.float32)])
    x = x / np.abs(x).max(axis=1, keepdims=True) * 4
    static = method.fit(x, signed, step=0.40625)
    dynamic = Dynamic(method, "max").fit(x, signed, step=0.1015625)
    assert np.array_equal(static(x), dynamic(x))


@pytest.mark.parametrize("fmt", [OverQ(4, 8, 3, 3, "largest"), OverQ(3, 2, lanes=8), Uniform(5)], ids=lambda m: m.describe())
@pytest.mark.parametrize("by", ["max", "rms"])
def test_every_vector_is_overwritten_with_its_own_step(fmt, by):
    x = long_tailed(rows=50, signed=True) * np.exp(np.random.default_rng(0).normal(size=(50, 1))).astype(np.float32)
    fitted = Dynamic(fmt, by).fit(x, True)
    statistic = np.abs(x).max(1) if by == "max" else np.sqrt(np.square(x).mean(1))
    steps = scale.steps(x, scale.Dynamic(fitted.step, by), fmt.format(True))[:, 0]
    assert np.allclose(steps, fitted.step * statistic, rtol=2**-8)
    plain = kernels.get("array")
    expected = [plain.overwrite(row, float(step), fmt.format(True)) for row, step in zip(x, steps, strict=True)]
    assert np.array_equal(fitted(x), np.stack(expected))
    assert np.array_equal(fitted(torch.from_numpy(x).T, axis=0).numpy(), np.stack(expected).T)


@pytest.mark.parametrize("group", [8, 32, 45, 64])
def test_a_group_is_a_vector_of_its_own(group):
    """A tile is then a group; the last one may be short."""
    x = long_tailed(rows=30, signed=True)
    fitted = Dynamic(OverQ(4, 8), "max", group).fit(x, True)
    alone = Dynamic(OverQ(4, 8), "max").fit(x, True, step=fitted.step)
    parts = [alone(np.ascontiguousarray(x[:, start : start + group])) for start in range(0, 45, group)]
    assert np.array_equal(fitted(x), np.concatenate(parts, 1))


@pytest.mark.parametrize("by", ["max", "rms"])
def test_scaling_a_vector_by_a_power_of_two_scales_its_result(by):
    """However large or small: squares neither overflow nor vanish."""
    x = long_tailed(rows=30, signed=True)
    fitted = Dynamic(OverQ(4, 8), by).fit(x, True)
    once = fitted(x)
    for power in (-80, -3, 40, 90):
        assert np.array_equal(fitted(x * np.float32(2.0**power)), once * np.float32(2.0**power))
    assert not fitted(np.zeros((3, 45), np.float32)).any()


def test_odd_values_stay_or_saturate():
    x = long_tailed(rows=4, signed=True)
    x[0, 3], x[1, 5] = np.nan, np.inf
    y = Dynamic(Uniform(4), "max").fit(long_tailed(signed=True), True)(x)
    assert np.isnan(y[0, 3])
    assert np.isfinite(y).sum() == y.size - 1


def test_alpha_is_the_best_of_the_relative_error():
    x = long_tailed(rows=200, signed=True)
    method = Dynamic(OverQ(4, 8, policy="largest"), "rms")
    found = method.fit(x, True)

    def error(alpha):
        return float(np.square((method.fit(x, True, step=alpha)(x) - x) / np.sqrt(np.square(x).mean(1, keepdims=True))).sum())

    assert error(found.step) <= 1.02 * min(error(float(alpha)) for alpha in np.geomspace(0.05, 2, 60))


def test_what_it_costs():
    x = long_tailed(rows=20, lanes=64, signed=True)
    for method in (OverQ(4, 8, 3, 3), Uniform(4), METHODS["high_precision"](), METHODS["biscaled"]()):
        static, whole = (m.fit(x, True).cost(x) for m in (method, Dynamic(method, "max")))
        groups = Dynamic(method, "max", 16).fit(x, True).cost(x)
        if isinstance(method, (OverQ, Uniform)):
            assert whole.bits == static.bits + 16 / 64
            assert groups.bits == static.bits + 16 / 16
        assert whole.metadata_bits >= 16 / 64


def test_json_is_the_method_s_with_two_more_keys():
    method = Dynamic(OverQ(4, 8, 3, 3, "largest"), "rms", 32)
    data = method_to_json(method)
    assert data["name"] == "overq"
    assert (data["dynamic"], data["group"]) == ("rms", 32)
    assert method_from_json(data) == method
    assert method_from_json({"name": "uniform", "dynamic": "max"}) == Dynamic(Uniform(), "max")
    for inner in (Uniform(4), METHODS["high_precision"](), METHODS["pwlq"]()):
        fitted = Dynamic(inner, "max").fit(long_tailed(), False)
        assert fitted_from_json(fitted_to_json(fitted)) == fitted


def test_senseless_ones_are_refused():
    with pytest.raises(FormatError, match="by max or rms of each vector, not 'mean'"):
        Dynamic(Uniform(), "mean")
    with pytest.raises(FormatError, match="takes its scales from each block"):
        Dynamic(METHODS["mx"](), "max")
    with pytest.raises(FormatError, match="knows channels of the whole vector"):
        Dynamic(METHODS["ocs_activations"](), "max", 16)
    with pytest.raises(FormatError, match="group 16 is of dynamic steps"):
        method_from_json({"name": "uniform", "group": 16})
    with pytest.raises(FormatError, match=r"Dynamic\.group must be an integer from 2"):
        Dynamic(Uniform(), "max", 1)
    with pytest.raises(FormatError, match="must be a method with static steps"):
        Dynamic(Dynamic(Uniform(), "max"), "max")


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(24, 16), torch.nn.GELU(), torch.nn.Linear(16, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))


@pytest.mark.parametrize("calibration", ["max", "format-mse", "least-error", "output-mse", "percentile:99.9", "mse"])
def test_a_recipe_with_dynamic_steps(calibration):
    """Edges too; the layers quantize each vector by itself, and the state says which method."""
    recipe = Recipe(Dynamic(OverQ(4, 8, 3, 3, "largest"), "max"), calibration=calibration)
    assert recipe.first == LayerRule(Dynamic(Uniform(8), "max"), calibration="max")
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe(OverQ()).first == EDGE
    x = torch.randn(64, 24)
    quantized = quantize(network(), x, recipe)
    assert [r.method for r in summary(quantized)][1] == recipe.method.describe()
    rows = torch.cat([quantized(row * 3)[None] for row in x[:5]])
    assert torch.allclose(rows, quantized(3 * x[:5]), atol=1e-5)
    if calibration == "max":
        layer = quantized[0]
        assert layer.step == pytest.approx(1 / 127, rel=2**-8)  # the greatest, divided by a step of 8 significant bits
        levels = layer.quantize_input(x) / scale.steps(x, scale.Dynamic(layer.step), Format.plain(8, True))
        assert (levels.round() - levels).abs().max() < 1e-4
        assert levels.abs().max() <= 128


def test_integers_are_refused_by_name():
    from overq.integer import integer_network

    quantized = quantize(network()[:1], torch.randn(9, 24), Recipe(Dynamic(Uniform(4), "max"), first=None, last=None))
    with pytest.raises((FormatError, InputError), match="a step for each vector by max"):
        integer_network(quantized)
