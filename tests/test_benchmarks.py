"""Each benchmark still runs, small: a script that nobody runs for months is broken when it is needed."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from overq.errors import InputError
from overq.spec import Format
from overq.spec.encode import give_way

ROOT = Path(__file__).parents[1]
NET = """
from torch import nn
def tiny():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NET)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 12, 12), np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.arange(12) % 4)
    return tmp_path


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["script", *map(str, words)])
    module.main()


def test_every_script_is_here() -> None:
    here = {
        "area", "area_ideas", "area_page", "calibration_time", "cycles", "cycles_networks", "decoder", "energy",
        "energy_networks", "fpga", "giving_way", "gpu", "kernels", "language", "real_onnx", "study",
    }  # fmt: skip
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} == here, "a new script needs a test"


@pytest.mark.slow
def test_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = script("gpu")
    monkeypatch.setattr("sys.argv", ["gpu.py", "--tiny"])
    assert module.main() == 0
    assert "Llama block" in capsys.readouterr().out


def blocks_of(costs: Any, machines: Any) -> list[Any]:
    """Designs whose blocks all take the same, so that nothing is synthesized."""
    from overq.eda.energy import BlockEnergy
    from overq.study.energy import Design

    blocks = BlockEnergy(400.0, 200.0, 300.0, 100.0, 900.0, 9.0, 8.0, 100, 1e6, 2000.0, 3000.0, 1e6, "made up", 1.1)
    return [Design(choice.label, tuple((cost, machines[choice], blocks) for cost in layers), blocks) for choice, layers in costs.items()]


def check_energy(line: dict[str, str]) -> None:
    parts = sum(float(line[name]) for name in ("elements", "edge", "leakage", "buffers", "dram"))
    assert float(line["energy"]) == pytest.approx(parts, abs=1e-3)
    assert float(line["edp"]) == pytest.approx(float(line["energy"]) * float(line["latency_ms"]), rel=1e-3, abs=1e-4)


def test_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that it writes, ResNet-50's cycles among them; blocks themselves are tested where they are."""
    module = script("energy")
    monkeypatch.setattr(module, "Library", lambda path: None)
    monkeypatch.setattr(module, "designs_at_rates", lambda costs, machines, library, rates: blocks_of(costs, machines))
    monkeypatch.setattr(module.table, "__defaults__", (module.FORMATS[:1],))
    run(module, monkeypatch, "cells.lib", "--bandwidth", "1e9", "--csv", tmp_path / "e.csv")
    line, *rivals = csv.DictReader((tmp_path / "e.csv").open(encoding="utf-8"))
    assert (line["format"], line["clock_ns"], line["topology"]) == ("A4 plain", "2.0", "resnet50")
    assert int(line["cycles"]) >= 916544  # with buffers that hold all; 256 kB of sums cut some folds
    assert [rival["format"] for rival in rivals] == ["A4 SPARQ", "A4 OliVe"]
    check_energy(line)


def test_energy_of_networks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each format's line, read as a study's table of costs; rivals are left out of a network whose layers see negative values."""
    from overq.report.costs import with_energies
    from overq.report.records import read_csv

    module = script("energy_networks")
    (folder / "nets.py").write_text(NET + NET.replace("tiny", "both").replace("nn.ReLU()", "nn.Tanh()"))
    monkeypatch.setattr(module, "Library", lambda path: None)
    monkeypatch.setattr(module.Met, "designs", lambda met, costs, library: blocks_of(costs, {c: c.on(met.machine) for c in costs}))
    specs = [f"{name}:{folder / 'images.npz'}:{folder / 'images.npz'}:0" for name in ("tiny", "both")]
    run(module, monkeypatch, "cells.lib", folder / "nets.py", *specs, "--rows", 8, "--csv", folder / "e.csv")
    found = list(csv.DictReader((folder / "e.csv").open(encoding="utf-8")))
    of = {name: [line["format"] for line in found if line["network"] == name] for name in ("tiny", "both")}
    assert of["both"] == of["tiny"][: len(module.FORMATS)]
    assert of["tiny"][len(module.FORMATS) :] == ["A3 SPARQ", "A3 OliVe", "A4 SPARQ", "A4 OliVe"]
    for line in found:
        check_energy(line)
    first = read_csv(ROOT / "studies" / "results" / "readme.csv")[0]
    records = [replace(first, network="tiny", weight_bits=8, element=name) for name in ("A4 sparq", "A4 pwlq")]
    known, unknown = with_energies(records, folder / "e.csv")
    assert known.energy == next(float(line["energy"]) for line in found if line["format"] == "A4 SPARQ")
    assert unknown.energy is unknown.edp is None


def test_fpga(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that it writes; placement itself is tested where it is."""
    from overq.eda import fpga
    from overq.eda.fpga import Placed, Resources

    def placed(name: str, text: str, device: str, seeds: range) -> Placed:
        return Placed(1000, 900, 24, 0, tuple(90.0 + s for s in seeds)) if seeds else fpga.place(name, text, device, seeds)

    module = script("fpga")
    monkeypatch.setattr(module, "place", placed)
    monkeypatch.setattr(fpga, "_mapped", lambda name, text, family, alone, multipliers: "")
    monkeypatch.setattr(fpga, "resources", lambda name, text, family, multipliers: Resources(1000, 50, 900, 288, 0))
    monkeypatch.setattr(module.verilog, "design", lambda config: {"overq_top": config.label})
    monkeypatch.setattr(module, "version", lambda family: family)
    run(module, monkeypatch, "--only", "ecp5 8x8", "--only", "ecp5 16x16", "--csv", tmp_path / "placed.csv")
    lines = (tmp_path / "placed.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * len(module.FEW)
    assert lines[1].startswith("A4 plain,8 × 8,2,25,1000,900,24,0,93.0,91.0,95.0,5,ecp5-85k,")
    assert lines[-1].startswith("A5 plain,16 × 16,2,26,1100,900,288,0,,,,0,ecp5-85k,")


def test_real_onnx_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel with two files, one of which is refused by an operator's name."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnx_ir")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    module = script("real_onnx")
    with zipfile.ZipFile(folder / "some_thing-1.0-py3-none-any.whl", "w") as wheel:
        for name, op in (("first", "Relu"), ("second", "Hardmax")):
            x, y = (helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", "m", 4]) for end in "xy")
            graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], name="only")], "g", [x], [y])
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
            wheel.writestr(f"some_thing/{name}.onnx", model.SerializeToString())
    monkeypatch.setattr(module, "FILES", [("some-thing", "1.0", part, "nothing", (1, 2, 4)) for part in ("first", "second")])
    monkeypatch.setattr(module, "RESULTS", folder / "r.csv")
    run(module, monkeypatch, "--archives", folder)
    with (folder / "r.csv").open() as file:
        outcomes = [row["outcome"] for row in csv.DictReader(file)]
    assert outcomes == ["agrees with onnxruntime", "refused: operator Hardmax (node 'only', 1 node) has no counterpart here"]


def test_cycles_of_networks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(script("cycles_networks"), monkeypatch, folder / "nets.py", "tiny:12", "--rows", 8, "--csv", folder / "c.csv")
    with (folder / "c.csv").open() as file:
        found = {row["format"]: int(row["cycles"]) for row in csv.DictReader(file)}
    assert found.keys() == {"A4 plain", "A4 r3+f3 c4"}
    assert found["A4 plain"] <= found["A4 r3+f3 c4"], "a plain tile may be cut anywhere"


LLAMA = """
def tiny():
    import torch, transformers
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1, intermediate_size=24)
    config = transformers.LlamaConfig(vocab_size=256, max_position_embeddings=128, pad_token_id=0, **sizes)
    return transformers.LlamaForCausalLM(config).eval()
def encoder():
    return lambda text: list(text.encode())
"""


@pytest.mark.parametrize("part", ["calibration", "speed"])
def test_language(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "nets.py").write_text(LLAMA)
    (tmp_path / "text.txt").write_text("abc " * 100)
    sizes = ("--window", 96, "--windows", 2, "--repeats", 2, "--threads", 1)
    given = (f"{tmp_path}/nets.py:tiny", "--tokenizer", f"{tmp_path}/nets.py:encoder", "--text", tmp_path / "text.txt", *sizes)
    run(script("language"), monkeypatch, *given, "--part", part)
    found = json.loads(capsys.readouterr().out)
    if part == "calibration":
        assert found["windows"] == 2
        assert found["load"]["peak GiB so far"] <= found["fit"]["peak GiB so far"]
    else:
        assert len(found["prefill"]["ratios"]) == len(found["decode"]["ratios"]) == 2
        assert min(found["decode"]["ratios"]) > 0


def test_calibration_time(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(script("calibration_time"), monkeypatch, f"{folder}/nets.py:tiny", folder / "images.npz", "--samples", 4)
    assert capsys.readouterr().out.count("peak so far") == 4


def test_cycles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "out.csv"
    run(script("cycles"), monkeypatch, f"{folder}/nets.py:tiny", *[folder / "images.npz"] * 2, "--rows", 8, "--columns", 8, "--csv", out)
    with out.open(newline="") as file:
        assert len({row["format"] for row in csv.DictReader(file) if int(row["cycles"]) > 0}) >= 5


def test_giving_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rules for whole arrays are the definition's, and no rule serves more than it says can be."""
    module = script("giving_way")
    rng = np.random.default_rng(7)
    for evict in range(4):
        for cascade in (1, 4):
            fmt = Format(4, cascade, 3, 3, "largest", bool(evict % 2), evict=evict)
            t = rng.choice([0, 16, 40, 90, 200, 400, 900], (200, 12)) * (rng.choice([1, -1], (200, 12)) if fmt.signed else 1)
            assert module.give_way(t, fmt, str(evict)).tolist() == [give_way(row, fmt) for row in t.tolist()]
    monkeypatch.setattr(module, "load_model", lambda _: (sys.path.insert(0, str(folder)), __import__("nets").tiny())[1])
    monkeypatch.setattr(module, "DATA", folder)
    (folder / "cifar10").mkdir()
    (folder / "images.npz").rename(folder / "cifar10" / "calibration1000.npz")
    with torch.no_grad():
        found = list(module.rows("tiny", 0))
    assert [(r["cascade"], r["rule"]) for r in found] == [(c, rule) for c in (4, 8) for rule in module.RULES]
    assert all(0 < r["coverage"] <= r["at_most"] for r in found)


def test_kernels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("kernels")
    x = module.tensor((2, 16, 6, 6), True, "cpu")
    assert set(module.operators(x, 1, slow=True)) == {"clone", "range", "both", "largest", "fake_quantize", "array"}
    assert all(ms > 0 for ms in module.encoders(x, 1).values())
    assert module.machine()["torch"]


def test_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner beside the bare evaluation, on the digits in place of ResNet-20."""
    module = script("study")
    study = module.Study("bench", module.WARM.networks, module.SETTINGS[:1], limit=40, samples=20, batch_size=20)
    wall, cpu = module.through_runner(study, 1, 1)
    assert wall > 0
    assert cpu > 0


def test_the_pages_of_areas_are_made_of_their_records() -> None:
    module = script("area_page")
    for page in module.PAGES:
        text = page.read_text(encoding="utf-8")
        assert module.made(text) == text


def test_a_table_of_two_versions_is_refused() -> None:
    module = script("area_page")
    with pytest.raises(InputError, match="2 commits"):
        module.one_version([{"commit": "a", "step": "rivals"}, {"commit": "b", "step": "rivals"}], "")


def test_the_table_of_decoder_layers_is_what_the_model_says() -> None:
    module = script("decoder")
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.made(text) == text


def test_area_scripts_have_their_elements() -> None:
    """Synthesis itself takes minutes: `make area`."""
    ideas, area = script("area_ideas"), script("area")
    assert len(ideas.IDEAS) > 20
    assert all(text.count("module") >= 2 for _, *pair in ideas.IDEAS.values() for text in pair)
    assert callable(area.main)
