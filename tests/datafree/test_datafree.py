"""Statistics followed from batch norms: exact where the page says exact, close to a simulation where it says assumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.nn import functional as F

from overq import calib
from overq.calib.observed import BINS
from overq.datafree import observe_statistics
from overq.datafree.clipped import Clipped, joined, law
from overq.datafree.norms import output_moments
from overq.datafree.statistics import VALUES, observed
from overq.errors import CalibrationError, FormatError
from overq.nn import Recipe, observe, quantize, summary
from overq.spec import Format
from shared_data import needs_data, networks

DRAWS = 200_000


def trained(norm: nn.BatchNorm2d, seed: int) -> nn.BatchNorm2d:
    """With statistics, scales and shifts as training leaves them: spread, some negative."""
    generator = torch.Generator().manual_seed(seed)
    norm.running_mean = torch.randn(norm.num_features, generator=generator)
    norm.running_var = torch.rand(norm.num_features, generator=generator) + 0.1
    norm.weight.data = torch.randn(norm.num_features, generator=generator)
    norm.bias.data = 0.5 * torch.randn(norm.num_features, generator=generator)
    return norm


class Residual(nn.Module):
    """Stem, one block with a shortcut that strides and widens by padding, a concatenation, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 4, 3, padding=1), trained(nn.BatchNorm2d(4), 0)
        self.a, self.bn1 = nn.Conv2d(4, 8, 3, 2, 1, bias=False), trained(nn.BatchNorm2d(8), 1)
        self.b, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), trained(nn.BatchNorm2d(8), 2)
        self.c = nn.Conv2d(12, 4, 1)
        self.bn3 = trained(nn.BatchNorm2d(4), 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        y = self.bn1(self.a(x))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        y = F.relu(self.bn2(self.b(F.relu(y))) + shortcut)
        y = F.relu6(self.bn3(self.c(torch.cat([y, x[:, :, ::2, ::2]], 1))))
        return self.fc(y.mean((2, 3)))


def simulated(model: nn.Module) -> nn.Module:
    """The same network whose norms give independent Gaussian noise of their output's mean and deviation, whatever comes in."""
    generator = torch.Generator().manual_seed(7)

    def noise(norm: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.from_numpy(a).float().view(1, -1, 1, 1) for a in output_moments(norm))
        return mean + std * torch.randn(output.shape, generator=generator)

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(noise)
    return model


@pytest.mark.parametrize(
    ("mean", "std", "low", "high"), [(0, 1, 0, np.inf), (-2, 0.5, 0, np.inf), (1, 2, 0, 6), (0.3, 1, -1, 1), (5, 0, 0, 2)]
)
@pytest.mark.parametrize("name", ["gauss", "laplace"])
def test_clipped_moments_are_the_integrals(mean: float, std: float, low: float, high: float, name: str) -> None:
    values = Clipped.free(np.array([mean], float), np.array([std], float), law(name)).clip(low, high)

    def integral(power: int) -> float:
        if std == 0:
            return float(np.clip(mean, low, high)) ** power
        total = 0.0
        for s in law(name):
            bell = stats.norm(mean, std * s)
            low_end, high_end = max(low, mean - 12 * std * s), min(high, mean + 12 * std * s)
            total += integrate.quad(lambda x: x**power * bell.pdf(x), low_end, high_end, limit=200)[0]  # noqa: B023
            total += low**power * bell.cdf(low) + (high**power * bell.sf(high) if np.isfinite(high) else 0.0)
        return total / len(law(name))

    first, variance = values.moments()
    assert first[0] == pytest.approx(integral(1), abs=1e-9)
    assert variance[0] == pytest.approx(integral(2) - integral(1) ** 2, abs=1e-8)


@pytest.mark.parametrize("name", ["gauss", "laplace"])
def test_draws_and_shares_follow_the_same_law(name: str) -> None:
    values = Clipped.free(np.array([0.5, -1.0]), np.array([1.0, 2.0]), law(name)).clip(0, 6)
    drawn = values.draw(DRAWS, np.random.default_rng(0))
    mean, variance = values.moments()
    # 5 standard errors; the fourth moment of values in [0, 6] bounds the variance's own error
    assert np.all(np.abs(drawn.mean(0) - mean) < 5 * np.sqrt(variance / DRAWS))
    assert np.all(np.abs(drawn.var(0) - variance) < 5 * 36 / np.sqrt(DRAWS))
    edges = np.array([-1.0, 0.0, 1e-6, 0.7, 3.0, 6.0, 6.1])
    share = np.array([np.mean(drawn < edge) for edge in edges])
    assert np.all(np.abs(values.below(edges) - share) < 5 * 0.5 / np.sqrt(2 * DRAWS))
    assert values.below(edges)[[0, 1, -1]].tolist() == [0.0, 0.0, 1.0]


def test_laws_keep_the_variance_and_laplace_has_its_tails() -> None:
    scales = np.array(law("laplace"))
    assert np.mean(scales**2) == pytest.approx(1)
    assert 5 < 3 * np.mean(scales**4) < 6
    with pytest.raises(FormatError, match="^no law 'cauchy' of batch norm outputs; there are gauss, laplace$"):
        law("cauchy")


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.6])
def test_sums_have_the_moments_of_correlated_summands(correlation: float) -> None:
    rng = np.random.default_rng(1)
    one, two = Clipped.free(np.array([0.4]), np.array([1.0])).clip(0, np.inf), Clipped.free(np.array([-0.2]), np.array([0.7]))
    total = one.plus(two, correlation)
    x = one.draw(DRAWS, rng)[:, 0]
    part = correlation * (x - x.mean()) / x.std() + np.sqrt(1 - correlation**2) * rng.standard_normal(DRAWS)
    summed = x + (-0.2 + 0.7 * part)
    mean, variance = total.moments()
    assert mean[0] == pytest.approx(summed.mean(), abs=5 * summed.std() / np.sqrt(DRAWS))
    assert variance[0] == pytest.approx(summed.var(), rel=0.03)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_the_greatest_of_a_window_is_that_of_independent_gaussians(count: int) -> None:
    values = Clipped.free(np.array([0.2]), np.array([1.5]))
    drawn = values.draw(DRAWS * count, np.random.default_rng(2)).reshape(-1, count).max(1)
    mean, variance = values.greatest(count).moments()
    assert mean[0] == pytest.approx(drawn.mean(), abs=5 * 1.5 / np.sqrt(DRAWS))
    assert variance[0] == pytest.approx(drawn.var(), rel=0.03)


def test_a_network_s_moments_are_those_of_a_simulation() -> None:
    """All but the sum are exact up to sampling; the ReLU behind the sum of a rectified and a plain Gaussian takes it as Gaussian:
    measured error of mean and deviation at most 4 % of the deviation, 8 % allowed."""
    model = Residual().eval()
    ours = observe_statistics(model, distribution="gauss")
    x = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(3)).clamp(-3, 3)
    theirs = observe(simulated(model), x)
    assert list(ours.layers) == list(theirs.layers) == ["stem", "a", "b", "c", "fc"]
    for name in ("stem", "a", "b", "c"):
        got, expected = ours.layers[name].sample, theirs.layers[name].sample
        deviation = expected.std(0).max()
        allowed = 0.08 if name == "c" else 5 * np.sqrt(2 / len(got)) * 2
        assert np.all(np.abs(got.mean(0) - expected.mean(0)) < allowed * deviation), name
        assert np.all(np.abs(got.std(0) - expected.std(0)) < allowed * deviation), name
    pooled = ours.layers["fc"].sample
    assert np.allclose(pooled.mean(0), theirs.layers["fc"].sample.mean(0), atol=0.03 * pooled.std(0).max())
    assert np.all(pooled.std(0) + 0.02 > theirs.layers["fc"].sample.std(0))  # an upper bound


def test_histogram_sample_and_extremes_describe_one_tensor() -> None:
    values = Clipped.free(np.array([0.5, -1.0, 0.0]), np.array([1.0, 2.0, 0.0])).clip(0, np.inf)
    seen = observed(values, 1, np.random.default_rng(0))
    assert (seen.low, seen.signed, seen.values) == (0.0, False, seen.histogram.sum())
    assert abs(seen.values - VALUES) < 0.001 * VALUES
    assert seen.histogram[:BINS].sum() == 0
    assert seen.histogram @ seen.centers / seen.values == pytest.approx(values.moments()[0].mean(), rel=0.01)
    assert seen.sample.max() <= seen.high < seen.limit
    assert seen.sample[:, 2].tolist() == [0.0] * len(seen.sample)
    assert VALUES * (1 - values.below(np.array([seen.high]))[0]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", [*calib.CALIBRATORS, "output-mse"])
def test_every_calibrator_takes_statistics(name: str) -> None:
    model = Residual().eval()
    quantized = quantize(model, observe_statistics(model), Recipe(Format(4, 2), calibration=name, first=None, last=None))
    reports = list(summary(quantized))
    assert [r.name for r in reports] == ["stem", "a", "b", "c", "fc"]
    assert [r.format.signed for r in reports] == [True, False, False, False, False]
    assert all(0 < r.step < 1 for r in reports)


def test_the_seed_decides_the_sample_and_nothing_else_does() -> None:
    model = Residual().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, again, other = observe_statistics(model, seed=3), observe_statistics(model, seed=3), observe_statistics(model, seed=4)
    for name, one in first.layers.items():
        assert np.array_equal(one.sample, again.layers[name].sample)
        assert np.array_equal(one.histogram, other.layers[name].histogram)
        assert not np.array_equal(one.sample, other.layers[name].sample)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_groups_flatten_pools_and_shared_layers() -> None:
    norm = trained(nn.BatchNorm2d(4), 5)
    shared = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), norm, nn.ReLU6(), shared, norm, nn.MaxPool2d(2), shared, norm, nn.Hardtanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Dropout(), nn.Linear(4 * 9, 2),
    ).eval()  # fmt: skip
    seen = observe_statistics(model).layers
    assert {name: one.sample.shape[1] for name, one in seen.items()} == {"0": 3, "3": 2, "12": 36}
    assert (seen["3"].batches, seen["3"].signed) == (2, True)  # called twice: rectified, then not
    assert (seen["12"].low, seen["12"].high) == (-1.0, 1.0)
    mean = seen["12"].sample.mean(0).reshape(4, 9)
    assert np.ptp(mean, axis=1).max() < 0.05 < np.ptp(mean, axis=0).min()


def refusal(model: nn.Module) -> str:
    with pytest.raises(CalibrationError) as caught:
        observe_statistics(model.eval())
    assert "\n" not in str(caught.value)
    return str(caught.value)


HELP = "give calibration images, or load a checkpoint that has its batch norm statistics"


def test_refusals_say_what_is_missing_and_what_helps() -> None:
    none = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    assert refusal(none) == f"data-free calibration: the model has no batch norm; {HELP}"
    folded = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    why = "has mean 0 and variance 1 (never trained, or folded into the weights)"
    assert refusal(folded) == f"data-free calibration: none of the 1 batch norms is usable: '1' {why}; {HELP}"
    untracked = nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 4, 3))
    assert "'0' keeps no running statistics" in refusal(untracked)
    good = trained(nn.BatchNorm2d(4), 0)
    partly = nn.Sequential(nn.Conv2d(3, 4, 3), good, nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    assert refusal(partly) == f"data-free calibration: nothing is known of the input of layer '4': no batch norm follows '2'; {HELP}"
    half = nn.Sequential(nn.Conv2d(3, 4, 3), good, nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    assert refusal(half) == f"data-free calibration: nothing is known of the input of layer '4': batch norm '3' {why}; {HELP}"
    gated = nn.Sequential(nn.Conv2d(3, 4, 3), good, nn.SiLU(), nn.Conv2d(4, 4, 3))
    assert "operation '_2' (SiLU) has no analytic form here" in refusal(gated)


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(FormatError, match="^correlation must be from -1 to 1, not 2$"):
        observe_statistics(Residual(), correlation=2)
    with pytest.raises(FormatError, match="^reach must be a positive number, not 0$"):
        observe_statistics(Residual(), reach=0)


def test_joined_keeps_each_part_s_clip() -> None:
    both = joined([Clipped.free(np.zeros(1), np.ones(1)), Clipped.free(np.zeros(2), np.ones(2)).clip(0, 6)])
    assert both.low.tolist() == [-np.inf, 0, 0]
    assert both.padded(1, 0).moments()[0][0] == 0


@needs_data
def test_resnet20_is_calibrated_without_images() -> None:
    """A4 range + precision on 300 images: at most 2 points (6 images) fewer right than with 64 real calibration images."""
    loader = networks()
    model, (x, labels), (real, _) = (
        loader.load("cifar10/resnet20"),
        loader.images("cifar10", "test", 300),
        loader.images("cifar10", "calibration", 64),
    )
    right = []
    for samples in (observe_statistics(model), real):
        with torch.no_grad():
            right.append(int((quantize(model, samples)(x).argmax(1) == labels).sum()))
    assert right[0] >= right[1] - 6
    with pytest.raises(CalibrationError, match="has mean 0 and variance 1"):
        observe_statistics(loader.load("imagenet/resnet18"))
    with pytest.raises(CalibrationError, match="the model has no batch norm"):
        observe_statistics(loader.load("imagenet/squeezenet"))
