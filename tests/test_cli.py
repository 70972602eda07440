"""`overq evaluate` as a user meets it: what it prints and writes, and one line with exit code 2 for every wrong input."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import overq
from overq import cli, kernels

FACTORIES = """
import torch
from torch import nn

def net(classes=3):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)]
    return nn.Sequential(*layers)

def two(): return net(2)
def broken(): raise KeyError("no such weights")
def not_a_network(): return 42
def map_out(): return nn.Conv2d(3, 3, 1)
"""


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of the overq command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["overq", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture(autouse=True, scope="module")
def _compiled() -> None:
    """Else the first command says on standard error that it compiles."""
    kernels.prepare()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's files: nets.py, images/ with one subfolder per class, labels.csv."""
    (tmp_path / "nets.py").write_text(FACTORIES)
    rng = np.random.default_rng(0)
    lines = ["file,label"]
    for label, name in enumerate(("cat", "dog", "eel")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 255, (14, 12, 3), dtype=np.uint8)).save(tmp_path / "images" / name / f"{i}.png")
            lines.append(f"{name}/{i}.png,{label}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def own(folder: Path, **changed: object) -> list[object]:
    options = {"model": f"{folder}/nets.py:net", "images": folder / "images", "resize": 12, "crop": 12, "samples": 6,
               "bits": "3", "plain-bits": "3", "cascades": "1,2"} | changed  # fmt: skip
    return ["evaluate", *(part for key, value in options.items() if value is not None for part in (f"--{key}", value))]


def test_own_network_and_images(folder: Path, capsys, monkeypatch) -> None:
    code, out, err = run(capsys, monkeypatch, *own(folder, json=folder / "r.json", csv=folder / "sub" / "r.csv", plot=folder / "r.svg"))
    assert (code, err) == (0, "")
    assert "A3 r2+f2 c2" in out
    result = json.loads((folder / "r.json").read_text())
    assert [r["setting"] for r in result["results"]] == ["float", "plain"] + ["overq"] * 4
    assert {r["images"] for r in result["results"]} == {24 - 6}  # calibration images are not scored
    overq = result["results"][2]
    assert overq["expected_coverage"] == pytest.approx(
        np.mean([x["expected_coverage"] for x in overq["layers"] if x["coverage"] is not None])
    )
    rows = list(csv.DictReader((folder / "sub" / "r.csv").open()))
    assert [float(row["top1"]) for row in rows] == pytest.approx([r["top1"] for r in result["results"]], rel=1e-5)
    assert (folder / "r.svg").read_text().startswith("<svg ")
    assert not list(folder.glob("**/.*.part"))


def test_images_without_labels_count_agreement_with_float(folder: Path, capsys, monkeypatch) -> None:
    for i, file in enumerate(sorted((folder / "images").rglob("*.png"))):  # a flat folder: nothing in it tells a class
        (folder / "flat").mkdir(exist_ok=True)
        file.rename(folder / "flat" / f"{i}.png")
    options = own(folder, images=folder / "flat", json=folder / "r.json", **{"plain-bits": "8", "bits": "", "samples": 4})
    code, out, _ = run(capsys, monkeypatch, *options, "--unlabelled")
    result = json.loads((folder / "r.json").read_text())
    assert code == 0
    assert result["data"] == "flat (labels: the float network's own answers)"
    assert "own answers" in out  # the table says so, too
    assert result["results"][0]["top1"] == 100.0
    namespace: dict = {}
    exec(FACTORIES, namespace)
    from overq.study.data import Preprocess, open_images

    x = open_images(folder / "flat", None, Preprocess(12, 12), labelled=False)
    chosen = [i for i in range(24) if i not in {j * 24 // 4 for j in range(4)}]
    network = namespace["net"]().eval()
    a8 = overq.quantize(network, x.load([j * 24 // 4 for j in range(4)]), overq.Recipe(overq.Format.plain(8)))
    with torch.no_grad():
        same = (a8(x.load(chosen)).argmax(1) == network(x.load(chosen)).argmax(1)).sum()
    assert result["results"][1]["correct"] == int(same)


def test_the_three_ways_to_give_images_agree(folder: Path, capsys, monkeypatch) -> None:
    from overq.study.data import Preprocess, open_images

    folders = open_images(folder / "images", None, Preprocess(12, 12))
    table = open_images(folder / "images", folder / "labels.csv", Preprocess(12, 12))
    pixels = np.stack([Preprocess(12, 12).picture(p) for p in sorted((folder / "images").rglob("*.png"))])
    np.savez(folder / "all.npz", images=pixels, labels=folders.labels)
    array = open_images(folder / "all.npz", None, Preprocess())
    np.savez(folder / "calibration.npz", images=pixels)  # nothing but images: enough to calibrate on
    unlabelled = open_images(folder / "calibration.npz", None, Preprocess(), labelled=False)
    assert unlabelled.labels is None
    assert torch.equal(unlabelled.load(range(24)), array.load(range(24)))
    for other in (table, array):
        assert torch.equal(folders.load(range(24)), other.load(range(24)))
        assert np.array_equal(folders.labels, other.labels)
    x = folders.load([5])
    expected = (
        np.asarray(Image.open(folder / "images/cat/5.png").resize((12, 14)), np.float32)[1:13] / 255 - Preprocess().mean
    ) / Preprocess().std
    assert np.allclose(x[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_machine_output_goes_to_standard_output_alone(folder: Path, capsys, monkeypatch) -> None:
    code, out, _ = run(capsys, monkeypatch, *own(folder, csv="-", cascades="1"))
    assert code == 0
    assert [row["mode"] for row in csv.DictReader(io.StringIO(out))] == ["", "", "range", "range+precision"]


def test_weights_are_loaded_whatever_the_wrapping(folder: Path, capsys, monkeypatch) -> None:
    namespace: dict = {}
    exec(FACTORIES, namespace)
    torch.manual_seed(9)
    state = {key: torch.randn_like(value) for key, value in namespace["net"]().state_dict().items()}
    save_file(state, folder / "w.safetensors")
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, folder / "w.pth")
    results = []
    for weights in ("w.safetensors", "w.pth", None):
        code, out, err = run(capsys, monkeypatch, *own(folder, weights=weights and folder / weights, json="-", bits=""))
        removed = f"overq: warning: {folder}/w.pth: removed the prefix 'module.'\n"
        assert (code, err) == (0, removed if weights == "w.pth" else "")
        results.append([r["correct"] for r in json.loads(out)["results"]])
    assert results[0] == results[1] != results[2]


class Evil:
    def __reduce__(self):
        return (print, ("pickled code ran",))


def wrong(folder: Path) -> dict[str, tuple[list[object], str]]:
    """name -> (arguments, the one line)."""
    (folder / "notes.txt").write_text("no image")
    (folder / "bad").mkdir()
    (folder / "bad" / "a").mkdir()
    (folder / "bad" / "a" / "0.png").write_bytes(b"not a png")
    (folder / "sizes" / "a").mkdir(parents=True)
    for i, side in enumerate((12, 13, 12, 12, 12)):
        Image.new("RGB", (side, side)).save(folder / "sizes" / "a" / f"{i}.png")
    (folder / "label9.csv").write_text("file,label\ncat/0.png,0\ncat/1.png,9\n")
    (folder / "labelx.csv").write_text("file,label\ncat/0.png,tabby\n")
    (folder / "gone.csv").write_text("file,label\ncat/77.png,0\n")
    (folder / "columns.csv").write_text("path,class\n")
    (folder / "syntax.py").write_text("def net(:\n")
    torch.save({"x": Evil()}, folder / "evil.pth")
    torch.save({"0.weight": torch.zeros(2)}, folder / "short.pth")
    torch.save([torch.zeros(2)], folder / "list.pth")
    (folder / "noise.pth").write_bytes(b"\x00" * 64)
    np.savez(folder / "float.npz", images=np.zeros((4, 3, 8, 8), np.float32), labels=np.zeros(4))
    np.savez(folder / "few.npz", images=np.zeros((4, 3, 8, 8), np.uint8), labels=np.zeros(3))
    np.savez(folder / "bare.npz", images=np.zeros((4, 3, 8, 8), np.uint8))
    np.savez(folder / "pickled.npz", images=np.array([Evil()], object), labels=np.zeros(1))
    state = nn.Sequential(nn.Conv2d(3, 9, 3)).state_dict()
    save_file(state, folder / "other.safetensors")
    nets = f"{folder}/nets.py"
    return {
        "no model folder": (own(folder, model="nowhere.py:net"), "--model nowhere.py:net: no such file nowhere.py"),
        "no factory": (own(folder, model=f"{nets}:nett"), "has no factory 'nett'; it has net, two, broken, not_a_network"),
        "no colon": (own(folder, model="resnet50"), "--model resnet50: write package.module:factory"),
        "no package": (own(folder, model="nopackage.models:net"), "cannot import nopackage.models"),
        "syntax": (own(folder, model=f"{folder}/syntax.py:net"), "failed: SyntaxError"),
        "factory raises": (own(folder, model=f"{nets}:broken"), "the factory failed: KeyError: 'no such weights'"),
        "not a network": (own(folder, model=f"{nets}:not_a_network"), "the factory returned int, not a torch.nn.Module"),
        "not scores": (own(folder, model=f"{nets}:map_out"), "class scores [N, classes] are needed"),
        "no images": (own(folder, images=folder / "none"), "no such folder (or .npz file)"),
        "flat folder": (own(folder, images=folder / "images" / "cat"), "no subfolder per class; give --labels CSV"),
        "unreadable image": (own(folder, images=folder / "bad"), "0.png: not a readable image (UnidentifiedImageError)"),
        "uneven sizes": (own(folder, images=folder / "sizes", resize=0, crop=0, samples=1), "use --resize and --crop"),
        "crop too large": (own(folder, crop=99), "12x14 pixels is smaller than the crop 99; use --resize or a smaller --crop"),
        "class count": (own(folder, model=f"{nets}:two"), "images has labels up to 2, but the network has 2 classes (0 … 1)"),
        "label too high": (own(folder, labels=folder / "label9.csv", samples=1), "labels up to 9, but the network has 3 classes (0 … 2)"),
        "label no number": (own(folder, labels=folder / "labelx.csv"), "line 2: label must be a class number, not 'tabby'"),
        "label file gone": (own(folder, labels=folder / "gone.csv"), "line 2: no image"),
        "label columns": (own(folder, labels=folder / "columns.csv"), "the first line must name the columns file and label"),
        "no labels": (own(folder, labels=folder / "zzz.csv"), "no such file"),
        "float npz": (own(folder, images=folder / "float.npz"), "images must be uint8 [N, 3, H, W], not float32 [4, 3, 8, 8]"),
        "few labels": (own(folder, images=folder / "few.npz"), "few.npz: labels must be [4], one for each image, not [3]"),
        "bare npz": (own(folder, images=folder / "bare.npz"), "bare.npz: no array named 'labels'; it needs images"),
        "pickled npz": (own(folder, images=folder / "pickled.npz"), "not a readable .npz file of plain arrays"),
        "shape": (own(folder, resize=4, crop=4), "the network does not take images of shape [1, 3, 4, 4]"),
        "channels": (own(folder, mean="0.5", std="0.5"), "the network does not take images of shape [1, 1, 12, 12]"),
        "pickled weights": (own(folder, weights=folder / "evil.pth"), "it is damaged or holds pickled objects, which are never loaded"),
        "missing tensors": (own(folder, weights=folder / "short.pth"), "it lacks '0.bias' (5 missing, 0 unknown tensors)"),
        "other shapes": (own(folder, weights=folder / "other.safetensors"), "does not fit Sequential: it lacks '2.bias'"),
        "not a state": (own(folder, weights=folder / "list.pth"), "is not a state_dict of tensors"),
        "noise": (own(folder, weights=folder / "noise.pth"), "is not a checkpoint of plain tensors"),
        "no weights": (own(folder, weights=folder / "w.pth"), "no such file"),
        "labelled, unlabelled": ([*own(folder, labels=folder / "labels.csv"), "--unlabelled"], "without labels: leave --labels out"),
        "nothing unlabelled": (["evaluate", "--unlabelled"], "--unlabelled is for --images without labels: give --images"),
        "model alone": (["evaluate", "--model", f"{nets}:net"], "--model and --images go together"),
        "weights alone": (["evaluate", "--weights", "w.pth"], "--weights needs --model"),
        "bits": (own(folder, bits="9"), "Format.bits must be an integer from 2 to 8, not 9"),
        "bits word": (own(folder, bits="four"), "--bits four: write whole numbers separated by commas"),
        "weight bits": (own(folder, **{"weight-bits": 2}), "weight_bits must be an integer from 4 to 8, not 2"),
        "policy": (own(folder, policy="best"), "Format.policy must be one of first, largest, not 'best'"),
        "calibration": (own(folder, calibration="best"), "no calibration method 'best'"),
        "source": (own(folder, **{"calibration-source": "guess"}), "must be one of images, statistics, distilled, not 'guess'"),
        "source and images": (own(folder, **{"calibration-source": "statistics", "calibration-images": folder}), "exclude each other"),
        "correction": (["evaluate", "--bias-correction", "--calibration-source", "statistics"], "has no images, which"),
        "no batch norm": (own(folder, **{"calibration-source": "distilled"}), "the model has no batch norm; give calibration images"),
        "plot name": (own(folder, plot=folder / "r.txt"), "the name must end in one of .png, .svg, .pdf"),
        "output is a folder": (own(folder, json=folder), "it is a folder"),
        "output in a file": (own(folder, csv=folder / "notes.txt" / "r.csv"), "notes.txt"),
        "all for calibration": (own(folder, samples=24), "24 of 24 images for calibration leave none to score"),
        "device": (own(folder, device="abacus"), "--device abacus:"),
        "std": (own(folder, std="0,1,1"), "std positive"),
    }  # fmt: skip


@pytest.fixture
def case(request: pytest.FixtureRequest, folder: Path) -> tuple[list[object], str]:
    return wrong(folder)[request.param]


NAMES = [
    "no model folder", "no factory", "no colon", "no package", "syntax", "factory raises", "not a network", "not scores", "no images",
    "flat folder", "unreadable image", "uneven sizes", "crop too large", "class count", "label too high", "label no number",
    "label file gone", "label columns", "no labels", "float npz", "few labels", "bare npz",
    "pickled npz", "shape", "channels", "pickled weights", "missing tensors", "other shapes",
    "not a state", "noise", "no weights", "labelled, unlabelled", "nothing unlabelled",
    "model alone", "weights alone", "bits", "bits word", "weight bits", "policy", "calibration",
    "source", "source and images", "correction", "no batch norm",
    "plot name", "output is a folder", "output in a file", "all for calibration", "device", "std",
]  # fmt: skip


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_wrong_input_is_one_line_and_exit_code_2(case: tuple[list[object], str], folder: Path, capsys, monkeypatch) -> None:
    arguments, message = case
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if "__pycache__" not in p.parts}
    code, out, err = run(capsys, monkeypatch, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("overq: ")
    assert err.count("\n") == 1
    assert message in err
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if "__pycache__" not in p.parts} == before  # nothing half-written


def test_every_wrong_case_is_run(folder: Path) -> None:
    assert set(NAMES) == set(wrong(folder))


@pytest.mark.parametrize("zoo", ["torchvision", "timm"])
def test_a_missing_model_library_is_named(folder: Path, zoo: str, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models" if zoo == "torchvision" else "timm", None)  # as if not installed
    code, _, err = run(capsys, monkeypatch, *own(folder, model=f"{zoo}:resnet18"))
    assert code == 2
    assert f"--model {zoo}:resnet18 needs {zoo}, which cannot be imported" in err
    assert "pip install 'overq[vision]'" in err


def test_a_missing_extra_is_named(tmp_path: Path, capsys, monkeypatch) -> None:
    for module in [name for name in sys.modules if name.startswith("overq.rtl")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "amaranth", None)
    monkeypatch.setitem(sys.modules, "amaranth.hdl", None)
    code, _, err = run(capsys, monkeypatch, "rtl", "--out", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "not installed: pip install 'overq[rtl]'" in err


def test_usage_errors_and_help_come_from_the_command_line_library(capsys, monkeypatch) -> None:
    code, _, err = run(capsys, monkeypatch, "evaluate", "--no-such-option")
    assert code == 2
    assert "--no-such-option" in err
    code, out, _ = run(capsys, monkeypatch, "--version")
    assert (code, out.split()[0]) == (0, "overq")


def test_an_unforeseen_error_is_one_line_too(capsys, monkeypatch) -> None:
    monkeypatch.setattr("overq.study.digits.network", lambda: 1 / 0)
    code, _, err = run(capsys, monkeypatch, "evaluate")
    assert code == 70
    assert err.startswith("overq: internal error, please report it (ZeroDivisionError: division by zero)")
    assert err.count("\n") == 1


def test_importing_overq_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'numba', 'triton', 'amaranth', 'vl_convert', 'sklearn'} & set(sys.modules)"
    code = f"import sys, overq, overq.spec, overq.cli; print(sorted({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_measuring_a_network_loads_no_compiler() -> None:
    """PyTorch's takes as long to import as PyTorch; it is for those who compile."""
    heavy = "{'torch._dynamo', 'torch._inductor', 'sympy', 'sklearn'} & set(sys.modules)"
    work = "x = digits.images('calibration')[0][:20]; nn.quantize(digits.network(), x, nn.Recipe(Format(4, 4)))(x)"
    needed = "import sys, torch; from overq import nn; from overq.spec import Format; from overq.study import accuracy, digits"
    code = f"{needed}; torch.set_grad_enabled(False); {work}; print(sorted({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_what_is_left_out_is_one_line_on_standard_error(folder: Path, capsys, monkeypatch) -> None:
    (folder / "images" / ".thumbnails").mkdir()
    code, _, err = run(capsys, monkeypatch, *own(folder, cascades="1"))
    assert (code, err) == (0, f"overq: warning: {folder}/images: left out: hidden folders: 1 (.thumbnails)\n")
