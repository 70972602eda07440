"""The main job on a real network: what the README's table says must hold in small."""

from __future__ import annotations

import pytest
import torch

from overq import Format, Recipe, quantize, spec
from overq.datafree import distill
from overq.errors import CalibrationError, FormatError, InputError
from overq.kernels import array
from overq.nn import observe
from overq.study import digits
from overq.study.accuracy import Plan, evaluate
from overq.study.data import from_tensors
from overq.study.evaluate import prepared
from shared_data import needs_data, networks


@needs_data
def test_overq_on_cifar10_resnet20() -> None:
    """600 test images, A3 W8: overwrite wins back most of what plain quantization loses, and serves most outliers."""
    loader = networks()
    test, calibration = loader.images("cifar10", "test", 600), loader.images("cifar10", "calibration", 128)
    full = ("full", Recipe(Format(3, 4, range_bits=3, fraction_bits=3)))
    by_label = {
        r.label: r
        for plan in (Plan(plain_bits=(8, 3), bits=(3,), cascades=(1, 4), batch_size=200), Plan(batch_size=200, given=(full,)))
        for r in evaluate(
            loader.load("cifar10/resnet20"),
            from_tensors("test", *test),
            plan,
            model_name="resnet20",
            calibration=from_tensors("c", calibration[0]),
        ).results
    }
    floating, plain, ours = by_label["float"], by_label["A3 plain"], by_label["full"]
    assert floating.top1 > 90
    assert abs(by_label["A8 plain"].top1 - floating.top1) < 1
    assert floating.top1 - plain.top1 > 1.5
    assert floating.top1 - ours.top1 < 0.75 * (floating.top1 - plain.top1)
    assert by_label["A3 r2+f2 c4"].top1 > plain.top1  # the default: one state bit
    next_door, cascaded = by_label["A3 r2 c1"], by_label["A3 r2 c4"]
    assert 0.5 < next_door.coverage < 0.6 < 0.85 < cascaded.coverage < 0.92
    assert next_door.zero_rate == pytest.approx(0.58, abs=0.03)


@needs_data
def test_a_real_layer_s_lanes_are_those_of_the_definition() -> None:
    loader = networks()
    model, (x, _) = loader.load("cifar10/resnet20"), loader.images("cifar10", "calibration", 8)
    quantized = quantize(model, x, Recipe(Format(3, 4, lanes=16)))
    layer, inputs = quantized.layer3[0].conv2, observe(model, x).layers["layer3.0.conv2"].sample[:300]
    rows = array.to_fixed(inputs, layer.step, layer.format).tolist()
    expected = [
        [E * layer.step / 2**layer.format.fraction_bits for E in spec.effective(spec.encode(row, layer.format), layer.format)]
        for row in rows
    ]
    got = layer.quantize_input(torch.from_numpy(inputs).reshape(-1, 64, 1, 1)).reshape(-1, 64)
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-6, atol=0)


def test_calibration_images_are_left_out_of_the_score() -> None:
    x, labels = digits.images("test")
    images = from_tensors("digits", x[:100], labels[:100])
    result = evaluate(digits.network(), images, Plan(plain_bits=(8,), bits=()), model_name="digits", samples=30)
    assert [r.images for r in result.results] == [70, 70]
    assert result.calibration_images == 30
    with pytest.raises(CalibrationError, match="^100 of 100 images for calibration leave none to score"):
        evaluate(digits.network(), images, Plan(), model_name="digits", samples=100)


@pytest.mark.parametrize("source", ["statistics", "distilled"])
def test_without_data_all_images_are_scored(source: str) -> None:
    x, labels = digits.images("test")
    images = from_tensors("digits", x[:100], labels[:100])
    result = evaluate(digits.network(), images, Plan(plain_bits=(8,), bits=(), source=source), model_name="digits")
    floating, plain = result.results
    assert floating.images == plain.images == 100
    assert plain.correct >= floating.correct - 3
    assert (result.calibration, result.calibration_images) == (f"format-mse, {source}", 0)


@pytest.mark.parametrize("source", ["images", "distilled"])
def test_bias_correction_is_quantize_s(source: str) -> None:
    model, (x, labels) = prepared(digits.network()), digits.images("test")  # another layout distills other images, in the last bits
    calibrated = from_tensors("c", digits.images("calibration")[0][:64])
    plan = Plan(plain_bits=(3,), bits=(), weight_bits=4, source=source, bias_correction=True)
    images = from_tensors("digits", x[:300], labels[:300])
    result = evaluate(model, images, plan, model_name="digits", calibration=calibrated if source == "images" else None)
    samples = [calibrated.load(range(64)) if source == "images" else distill(model, (1, 8, 8), seed=0)[:64]]
    quantized = quantize(model, samples, Recipe(Format.plain(3), 4, bias_correction=True))
    with torch.no_grad():
        assert result.results[1].correct == int((quantized(x[:300]).argmax(1) == labels[:300]).sum())
        assert result.calibration == "format-mse, bias corrected" if source == "images" else "format-mse, distilled, bias corrected"


def test_bias_correction_without_images_is_refused() -> None:
    with pytest.raises(FormatError, match='^a recipe with source = "statistics" has no images'):
        Plan(source="statistics", bias_correction=True)


def test_images_without_labels_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="^digits: labelled images are needed$"):
        evaluate(digits.network(), from_tensors("digits", digits.images("test")[0]), Plan(), model_name="digits")


def test_the_same_run_gives_the_same_numbers() -> None:
    x, labels = digits.images("test")
    images = from_tensors("digits", x[:60], labels[:60])
    plan = Plan(plain_bits=(), bits=(2,), cascades=(2,), seed=5)
    first, second = (evaluate(digits.network(), images, plan, model_name="digits", samples=20) for _ in range(2))
    assert [(r.correct, r.layers) for r in first.results] == [(r.correct, r.layers) for r in second.results]
