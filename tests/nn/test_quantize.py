"""quantize: what every kind of model gets, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import overq
from overq import Format, LayerRule, Recipe
from overq.errors import CalibrationError, FormatError, InputError, MostlyFloatWarning
from overq.nn import Quantized, observe
from overq.nn.weights import dequantize_weight, quantize_weight

EVERY_LAYER = Recipe(Format(3, 4), first=None, last=None)


def images(count: int = 8, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.body(x))
        x = F.relu(self.depthwise(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def model() -> Residual:
    torch.manual_seed(0)
    return Residual()


def by_name(quantized: nn.Module) -> dict[str, overq.nn.LayerReport]:
    return {report.name: report for report in overq.summary(quantized)}


def test_the_given_model_is_untouched(model: Residual) -> None:
    model.train()
    before = copy.deepcopy(model.state_dict())
    quantized = overq.quantize(model, images())
    assert model.training
    assert not quantized.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert not any(isinstance(m, Quantized) for m in model.modules())


def test_train_mode_calibrates_like_eval_mode(model: Residual) -> None:
    x = images()
    in_train, in_eval = overq.quantize(model.train(), x), overq.quantize(model.eval(), x)
    assert torch.equal(in_train(x), in_eval(x))


@pytest.mark.parametrize("layer", [
    nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(6, 4, 3, dilation=2, stride=2, groups=2),
    nn.Conv2d(6, 4, 3, padding="same", padding_mode="reflect"),
    nn.Conv1d(6, 4, 3, groups=2), nn.Linear(6, 4), nn.Linear(6, 4, bias=False),
])  # fmt: skip
@pytest.mark.parametrize("lanes", [None, 2, 4])
def test_a_layer_is_the_framework_s_own_over_overwritten_inputs_and_quantized_weights(layer: nn.Module, lanes: int | None) -> None:
    fmt = Format(3, 2, lanes=lanes)
    shape = {nn.Conv2d: (5, 6, 7, 7), nn.Conv1d: (5, 6, 9), nn.Linear: (5, 3, 6)}[type(layer)]
    x = torch.relu(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    quantized = overq.quantize(layer, x, Recipe(fmt, first=None, last=None))
    step, groups, dim = quantized.step, getattr(layer, "groups", 1), 1 if x.ndim != 3 or isinstance(layer, nn.Conv1d) else 2
    parts = [overq.overwrite(part, step, fmt, dim) for part in x.chunk(groups, dim)]  # lanes never cross a group
    reference = copy.deepcopy(layer)
    reference.weight.data = dequantize_weight(*quantize_weight(layer.weight, 8), torch.float32)
    assert torch.equal(quantized(x), reference(torch.cat(parts, dim)))


def test_depthwise_falls_back_to_plain_and_says_so(model: Residual) -> None:
    report = by_name(overq.quantize(model, images(), EVERY_LAYER))["depthwise"]
    assert report.format == Format.plain(3)
    assert report.note == "one channel a group: plain"


def test_first_and_last_layer_keep_eight_plain_bits_unless_told(model: Residual) -> None:
    reports = by_name(overq.quantize(model, images(), Recipe(Format(3, 4))))
    assert [(r.format.bits, r.format.cascade) for r in reports.values()] == [(8, 0), (3, 4), (3, 0), (8, 0)]
    reports = by_name(overq.quantize(model, images(), EVERY_LAYER))
    assert [r.format.bits for r in reports.values()] == [3, 3, 3, 3]


def test_overrides_by_name_pattern_the_last_one_wins(model: Residual) -> None:
    six, four = LayerRule(Format.plain(6), weight_bits=6), LayerRule(Format(4, 1), weight_bits=4)
    quantized = overq.quantize(
        model, images(), Recipe(Format(3, 4), overrides=(("*", six), ("bod?", four), ("head", LayerRule(skip=True))))
    )
    reports = by_name(quantized)
    assert {name: (r.format.bits, r.weight_bits) for name, r in reports.items()} == {"stem": (6, 6), "body": (4, 4), "depthwise": (6, 6)}
    assert overq.summary(quantized).left_float == (("head", "a rule of the recipe skips it"),)
    assert type(quantized.head) is nn.Linear
    with pytest.raises(FormatError, match=r"^override 'layer1\.\*' matches no layer; layers are stem, body, depthwise, head$"):
        overq.quantize(model, images(), Recipe(overrides=(("layer1.*", six),)))


def test_signedness_is_found_and_said(model: Residual) -> None:
    quantized = overq.quantize(model, images(), EVERY_LAYER)
    reports = by_name(quantized)
    assert [reports[name].format.signed for name in ("stem", "body", "head")] == [True, False, False]
    assert "s3" in str(overq.summary(quantized))
    assert "A3 signed" in repr(quantized.stem)


class Shared(nn.Module):
    """One convolution under two names, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.again = nn.ModuleList([self.a, nn.ReLU()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again[1](self.a(x))
        return self.a(3 * self.again[0](x))


def test_a_shared_module_stays_shared_and_sees_all_its_calls() -> None:
    torch.manual_seed(0)
    model, x = Shared(), images(channels=4)
    quantized = overq.quantize(model, x, EVERY_LAYER)
    assert quantized.a is quantized.again[0]
    assert isinstance(quantized.a, Quantized)
    assert len(overq.summary(quantized)) == 1
    assert observe(model, x).layers["a"].values == 3 * x.numel()
    assert by_name(quantized)["a"].format.signed
    assert torch.isfinite(quantized(x)).all()


class OwnAttention(nn.MultiheadAttention):
    """A subclass may do something else."""


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 2, stride=2)
        self.attention = OwnAttention(4, 2, batch_first=True)
        self.mix = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x).flatten(2).transpose(1, 2)
        return self.mix(self.attention(x, x, x, need_weights=False)[0])


def test_what_stays_float_is_listed_with_its_reason() -> None:
    with pytest.warns(MostlyFloatWarning, match="^most of the model stays in float: "):
        quantized = overq.quantize(Odd(), images(), EVERY_LAYER)
    reasons = dict(overq.summary(quantized).left_float)
    assert reasons == {
        "attention": "OwnAttention is not a layer that overq quantizes",
        "attention.out_proj": "called as a function: its weight is read by multi_head_attention_forward",
        "never": "the samples never ran this Linear",
    }
    assert "never" in str(overq.summary(quantized))
    assert torch.isfinite(quantized(images())).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_keep_the_model_s_dtype(model: Residual, dtype: torch.dtype) -> None:
    model = model.to(dtype)
    quantized = overq.quantize(model, images(), EVERY_LAYER)  # float32 samples are cast
    out = quantized(images().to(dtype))
    assert out.dtype == dtype
    assert {p.dtype for p in quantized.parameters()} == {dtype}
    assert torch.isfinite(out).all()


def test_eight_bits_are_close_to_float_and_fewer_bits_farther(model: Residual) -> None:
    x = images(32)
    errors = [(overq.quantize(model, x, Recipe(Format.plain(bits)))(x) - model.eval()(x)).norm().item() for bits in (8, 4, 2)]
    assert errors[0] < 0.02 * model(x).norm().item()
    assert errors[0] < errors[1] < errors[2]


def test_samples_come_as_tensor_batches_pairs_or_mappings(model: Residual) -> None:
    x = images(64)
    as_tensor = overq.quantize(model, x)
    pairs = [(part, torch.zeros(32)) for part in x.split(32)]
    assert torch.equal(overq.quantize(model, pairs)(x), as_tensor(x))
    assert torch.equal(overq.quantize(model, [{"x": part} for part in x.split(32)])(x), as_tensor(x))
    seen = observe(model, x)
    assert torch.equal(overq.quantize(model, seen)(x), as_tensor(x))
    own = overq.quantize(model, [1, 2], forward=lambda m, batch: m(x[32 * batch - 32 : 32 * batch]))
    assert torch.equal(own(x), as_tensor(x))


def test_bad_samples_are_refused_in_one_line(model: Residual) -> None:
    for nothing in ([], images(0)):
        with pytest.raises(CalibrationError, match=r"^no calibration samples: give at least one batch$"):
            overq.quantize(model, nothing)
    with pytest.raises(CalibrationError, match=r"^samples must be a tensor or an iterable of batches, not int$"):
        overq.quantize(model, 3)
    x = images()
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(
        CalibrationError, match=r"^layer 'stem': 1 of 1536 input values are NaN or infinite; calibrate with finite samples$"
    ):
        overq.quantize(model, x)
    assert not any(m._forward_pre_hooks for m in model.modules())
    with pytest.raises(CalibrationError, match="reached no Conv1d, Conv2d or Linear"):
        overq.quantize(nn.ReLU(), images())


def test_observations_of_another_model_are_refused(model: Residual) -> None:
    seen = observe(nn.Sequential(nn.Conv2d(3, 4, 1)), images())
    with pytest.raises(CalibrationError, match="^the observations are of another model: its layer '0'"):
        overq.quantize(model, seen)


def test_weights_that_are_not_finite_are_refused(model: Residual) -> None:
    model.head.weight.data[0, 0] = float("inf")
    with pytest.raises(CalibrationError, match="^layer 'head': its weights hold NaN or infinity$"):
        overq.quantize(model, images())


def test_nan_at_inference_stays_visible(model: Residual) -> None:
    quantized = overq.quantize(model, images())
    x = images()
    x[0] = float("nan")
    out = quantized(x)
    assert out[0].isnan().all()
    assert torch.isfinite(out[1:]).all()


def test_an_input_that_was_always_zero_is_said(model: Residual) -> None:
    with torch.no_grad():
        model.bn.weight.zero_()
        model.bn.bias.zero_()
    quantized = overq.quantize(model, images(), EVERY_LAYER)
    assert by_name(quantized)["body"].note == "input always zero, 2 groups of 4 lanes"
    assert torch.isfinite(quantized(images())).all()


def test_the_root_may_itself_be_a_layer() -> None:
    quantized = overq.quantize(nn.Linear(6, 2), torch.rand(40, 6), EVERY_LAYER)
    assert isinstance(quantized, Quantized)
    assert [r.name for r in overq.summary(quantized)] == [""]


def test_unbatched_inputs_and_gradients(model: Residual) -> None:
    quantized = overq.quantize(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)), images(), EVERY_LAYER)
    x = images(1)
    assert torch.equal(quantized(x[0]), quantized(x)[0])
    x.requires_grad_()
    quantized(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_summary_needs_a_quantized_model(model: Residual) -> None:
    with pytest.raises(InputError, match=r"^summary needs a model that overq\.quantize or overq\.load returned$"):
        overq.summary(model)


def test_summary_counts_are_those_of_the_sample(model: Residual) -> None:
    x = images(64)
    quantized = overq.quantize(model, x, EVERY_LAYER)
    report = by_name(quantized)["head"]
    seen = observe(model, x).layers["head"]
    assert report.counts.values == seen.sample.size == 64 * 8  # bounded, but small enough here to hold everything
    decoded = overq.overwrite(torch.from_numpy(seen.sample), report.step, report.format).numpy()
    noise = ((decoded - seen.sample) ** 2).sum()
    assert report.sqnr == pytest.approx(10 * torch.log10(torch.tensor((seen.sample**2).sum() / noise)).item(), abs=1e-3)
