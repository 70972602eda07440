"""save and load: the same numbers come back; anything damaged or foreign is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import overq
from overq import Format, Recipe
from overq.errors import InputError, ModelFileError
from overq.methods import METHODS


def network() -> nn.Module:
    torch.manual_seed(3)
    shared = nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), shared, nn.ReLU(), shared, nn.Flatten(), nn.Linear(8 * 36, 4)
    ).eval()


X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    overq.save(overq.quantize(network(), X, Recipe(Format(3, 4, policy="largest"), weight_bits=5)), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def edited(path: Path, change) -> None:
    """Rewrite the file with a changed manifest and, where the change returns tensors, those."""
    with safe_open(path, framework="pt") as file:
        manifest, tensors = json.loads(file.metadata()["overq"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(manifest, tensors)
    save_file(tensors, path, metadata={"overq": json.dumps(manifest)})


def test_round_trip_is_exact(saved: Path) -> None:
    quantized = overq.quantize(network(), X, Recipe(Format(3, 4, policy="largest"), weight_bits=5))
    loaded = overq.load(saved, network())
    assert torch.equal(loaded(X), quantized(X))
    assert overq.summary(loaded) == overq.summary(quantized)
    assert loaded.overq_recipe == quantized.overq_recipe
    assert loaded[3] is loaded[5]
    overq.save(loaded, saved.with_name("again.safetensors"))
    assert saved.with_name("again.safetensors").read_bytes() == saved.read_bytes()


def test_weights_are_stored_as_integers_only(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        keys = set(file.keys())
        assert "0.weight" not in keys
        assert file.get_tensor("0.weight_integers").dtype == torch.int8
    assert saved.stat().st_size < 30_000


def test_load_leaves_the_architecture_untouched_and_takes_its_dtype(saved: Path) -> None:
    model = network().bfloat16()
    before = model[0].weight.clone()
    loaded = overq.load(saved, model)
    assert torch.equal(model[0].weight, before)
    assert loaded[0].weight.dtype == torch.bfloat16
    assert loaded(X.bfloat16()).dtype == torch.bfloat16


def test_any_flipped_byte_is_noticed(saved: Path) -> None:
    data = saved.read_bytes()
    for position in range(0, len(data), len(data) // 60):
        saved.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        with pytest.raises(ModelFileError) as caught:
            overq.load(saved, network())
        assert "\n" not in str(caught.value)
    saved.write_bytes(data[:-7])
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        overq.load(saved, network())


def test_foreign_files_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ModelFileError, match="no such file$"):
        overq.load(path, network())
    torch.save(network(), path)
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        overq.load(path, network())
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ModelFileError, match=r"a safetensors file, but not one that overq\.save wrote$"):
        overq.load(path, network())


def test_another_version_or_architecture_is_refused(saved: Path) -> None:
    with pytest.raises(ModelFileError, match="saved from another architecture"):
        overq.load(saved, nn.Sequential(nn.ReLU()))
    wider = network()
    wider[3] = wider[5] = nn.Conv2d(8, 9, 3)
    with pytest.raises(ModelFileError, match=r"layer '3' has weights \[8, 8, 3, 3\], the model wants \[9, 8, 3, 3\]"):
        overq.load(saved, wider)
    longer = network().append(nn.BatchNorm1d(4))
    with pytest.raises(ModelFileError, match=r"tensor '8\.\w+' is missing"):
        overq.load(saved, longer)
    edited(saved, lambda manifest, tensors: manifest.update(version=99))
    with pytest.raises(ModelFileError, match="layout version 99; this overq reads versions 2 to 3$"):
        overq.load(saved, network())


def test_a_manifest_that_was_tampered_with_is_refused(saved: Path) -> None:
    edited(saved, lambda manifest, tensors: manifest["summary"]["layers"][1].update(step=0.5))
    with pytest.raises(ModelFileError, match="damaged: the stored digest is not that of the contents$"):
        overq.load(saved, network())


def test_saving_needs_a_quantized_model_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="summary needs a model"):
        overq.save(network(), tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="does not exist$"):
        overq.save(overq.quantize(network(), X), tmp_path / "no" / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_layout_version_2_still_loads() -> None:
    """Written before recipes held methods; the output was printed then."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=8), nn.Flatten(),
        nn.Linear(8 * 16, 4),
    ).eval()  # fmt: skip
    loaded = overq.load(Path(__file__).parent / "files/version2.safetensors", model)
    printed = [[0.4333, 0.1923, 0.4338, 0.0115], [0.3995, 0.2252, 0.5373, 0.0178],
               [0.4676, 0.2368, 0.5059, 0.0422], [0.4279, 0.3159, 0.5379, 0.0747]]  # fmt: skip
    assert torch.allclose(loaded(X[:4]), torch.tensor(printed), rtol=0, atol=6e-5)
    assert loaded.overq_recipe.format == Format(3, 4, range_bits=3, fraction_bits=3, policy="largest")
    assert [layer.format.bits for layer in overq.summary(loaded)] == [8, 3, 6, 8]


@pytest.mark.parametrize("name", METHODS)
def test_any_method_s_layers_are_stored_and_come_back_exactly(tmp_path: Path, name: str) -> None:
    recipe = Recipe(METHODS[name](), weight_bits=4, equalize=0.5, reorder=True, bias_correction=True)
    quantized = overq.quantize(network(), X, recipe)
    overq.save(quantized, tmp_path / "m.safetensors")
    loaded = overq.load(tmp_path / "m.safetensors", network())
    assert torch.equal(loaded(X), quantized(X))
    assert overq.summary(loaded) == overq.summary(quantized)
    assert loaded.overq_recipe == recipe
    assert loaded[3].fitted == quantized[3].fitted


def test_a_module_with_state_besides_tensors_is_refused(tmp_path: Path) -> None:
    class Counting(nn.ReLU):
        def get_extra_state(self) -> dict:
            return {"calls": 3}

        def set_extra_state(self, state: dict) -> None:
            pass

    quantized = overq.quantize(nn.Sequential(nn.Conv2d(3, 4, 3), Counting(), nn.Conv2d(4, 4, 3)), X)
    with pytest.raises(InputError, match=r"module '1' keeps state besides tensors"):
        overq.save(quantized, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []
