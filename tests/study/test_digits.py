"""The built-in experiment: the split is fixed and clean, the committed weights are small, safe to read and good."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from overq.errors import InputError
from overq.study import digits

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return load_digits(return_X_y=True)[1]


def test_the_images_are_those_of_scikit_learn(labels: np.ndarray) -> None:
    pixels = load_digits(return_X_y=True)[0]
    for split in digits.SPLITS:
        x, y = digits.images(split)
        chosen = digits.indices(split, labels)
        assert np.array_equal(y.numpy(), labels[chosen])
        wanted = (torch.from_numpy(pixels[chosen]).float() / 16 - digits.MEAN) / digits.STD
        assert torch.equal(x.reshape(-1, 64), wanted)


def test_train_and_test_share_no_image_and_leave_none_out(labels: np.ndarray) -> None:
    train, test = (set(digits.indices(split, labels).tolist()) for split in ("train", "test"))
    assert not train & test
    assert train | test == set(range(1797))


def test_no_test_image_occurs_in_train_under_another_number() -> None:
    train, test = ({image.numpy().tobytes() for image in digits.images(split)[0]} for split in ("train", "test"))
    assert not train & test


def test_calibration_is_a_part_of_train_with_every_class(labels: np.ndarray) -> None:
    calibration = digits.indices("calibration", labels)
    assert set(calibration.tolist()) < set(digits.indices("train", labels).tolist())
    assert np.bincount(labels[calibration]).tolist() == [digits.CALIBRATION_PER_CLASS] * 10


def test_both_halves_hold_the_classes_alike(labels: np.ndarray) -> None:
    counts = [np.bincount(labels[digits.indices(split, labels)]) for split in ("train", "test")]
    assert np.abs(counts[0] - counts[1]).max() <= 1


def test_the_split_is_the_one_the_weights_were_trained_on(labels: np.ndarray) -> None:
    test = digits.indices("test", labels).astype("<i8").tobytes()
    assert hashlib.sha256(test).hexdigest()[:16] == "4561c641ecd3c0ea"


def test_an_unknown_split_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"^no split 'validation'; there are train, test, calibration$"):
        digits.images("validation")


def test_images_are_normalised_and_typed() -> None:
    x, y = digits.images("train")
    assert x.shape == (901, 1, 8, 8)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert abs(float(x.mean())) < 0.01
    assert abs(float(x.std()) - 1) < 0.01


def test_the_weights_are_small_and_hold_nothing_but_numbers() -> None:
    data = digits.WEIGHTS.read_bytes()
    assert len(data) < 1_000_000
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])  # safetensors: length, JSON header, raw numbers; no pickle
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F32", "I64"}


def test_the_network_is_good_on_images_it_never_saw() -> None:
    model = digits.network()
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) < 200_000
    x, y = digits.images("test")
    with torch.no_grad():
        assert float((model(x).argmax(1) == y).float().mean()) > 0.97


def test_one_epoch_of_the_training_script_learns_and_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("train_digits", ROOT / "scripts" / "train_digits.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def weights() -> dict[str, torch.Tensor]:
        torch.manual_seed(script.SEED)
        model = digits.DigitsNet(widths=(4,), blocks=1)
        x, y = digits.images("calibration")
        script.train(model, x, y, epochs=3)
        return model.state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert losses[2] < losses[0]
