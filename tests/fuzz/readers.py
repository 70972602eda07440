"""Every reader of this package, with a small valid input and what damages it."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import mutations
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import overq
from overq import Format, LayerRule, Recipe

RAMP = np.linspace(0, 1, 24)[None].repeat(20, 0)
PICTURES: dict[str, np.ndarray] = {
    "a.png": (RAMP * 255).astype(np.uint8), "deep.png": (RAMP * 65535).astype(np.uint16), "a.bmp": (RAMP * 255).astype(np.uint8),
    "a.gif": (RAMP * 255).astype(np.uint8), "a.pgm": (RAMP * 255).astype(np.uint8), "a.tif": RAMP.astype(np.float32),
    "colour.jpg": (RAMP[..., None] * (255, 128, 0)).astype(np.uint8), "colour.tiff": (RAMP[..., None] * (255, 128, 0)).astype(np.uint8),
    "colour.webp": (RAMP[..., None] * (255, 128, 0)).astype(np.uint8),
}  # fmt: skip
FACTORY = """from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
"""
STUDY = """name = "mine"
seed = 0
weight_bits = [8, 4]
shards = 2
limit = 20
bias_correction = [true, false]

[[networks]]
name = "net"
model = "nets.py:net"
images = "images"
labels = "labels.csv"
calibration = "digits"
resize = 16
crop = 12
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]

[[methods]]
method = "overq"
bits = [3, 4]
cascade = [1, 4]
policy = "largest"

[[methods]]
method = "olive"
bits = 4

[[recipes]]
bits = 4
cascade = 4
calibration = "mse"
equalize = "auto"
"""
LIBERTY = """/* a library */
library (small) {
  time_unit : "1ns"; capacitive_load_unit (1, pf); voltage_unit : "1V"; nom_voltage : 1.8;
  lu_table_template (t) { variable_1 : input_net_transition; variable_2 : total_output_net_capacitance;
    index_1 ("0.01, 0.1"); index_2 ("0.001, 0.01"); }
  cell (inv) { area : 3.75; cell_leakage_power : 1e-3;
    pin (A) { direction : input; capacitance : 0.002; }
    pin (Y) { direction : output; function : "!(A)";
      timing () { related_pin : "A"; timing_sense : negative_unate;
        cell_rise (t) { values ("0.02, 0.1", \\
           "0.03, 0.2"); }
        cell_fall (t) { values ("0.02, 0.1", "0.03, 0.2"); }
        rise_transition (t) { values ("0.02, 0.1", "0.03, 0.2"); }
        fall_transition (t) { values ("0.02, 0.1", "0.03, 0.2"); } } } }
  cell (dff) { area : 20; ff (IQ, IQN) { clocked_on : "C"; next_state : "D"; }
    pin (C) { direction : input; clock : true; capacitance : 0.002; }
    pin (D) { direction : input; capacitance : 0.002;
      timing () { related_pin : "C"; timing_type : setup_rising; rise_constraint (t) { values ("0.1, 0.1", "0.1, 0.1"); } } }
    pin (Q) { direction : output; function : "IQ"; timing () { related_pin : "C"; timing_type : rising_edge;
        cell_rise (t) { values ("0.2, 0.3", "0.2, 0.3"); } cell_fall (t) { values ("0.2, 0.3", "0.2, 0.3"); } } } }
}
"""
AREAS = """element,activation_bits,weight_bits,area,sums,library
A4 plain,4,8,100.5,equal,lib
A4 r3 c4,4,8,120,equal,lib
SPARQ,3,4,90,own,lib
"""
CYCLES = "network,format,cycles\nnet,A4 plain,100\nnet,A4 r3 c4,101.5\n"


@dataclass(frozen=True)
class Reader:
    """make: writes a valid file into a folder; damage: its content, damaged; read: what the package does with the file."""

    make: Callable[[Path], Path]
    damage: Callable[[bytes, Random], bytes]
    read: Callable[[Path], object]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def text(name: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return make


def in_json(content: bytes, random: Random) -> bytes:
    """A JSON file by its structure or, less often, by its text."""
    if random.random() < 0.25:
        return mutations.of_text(content, random)
    return by_structure(content, random)


def by_structure(content: bytes, random: Random) -> bytes:
    """What is JSON still."""
    return json.dumps(mutations.of_json(json.loads(content), random)).encode()


def _load_model(path: Path) -> object:
    from overq.study.models import load_model

    return load_model(f"{path}:net")


def _load_spec(path: Path) -> object:
    from overq.study.models import load_model

    return load_model(path.read_text(errors="surrogateescape"))


def _checkpoint(name: str, **options: Any) -> Reader:
    from overq.study.checkpoints import load_weights

    def make(folder: Path) -> Path:
        state = {f"module.{key}": value for key, value in net().state_dict().items()}
        if name.endswith("safetensors"):
            save_file(state, folder / name)
        else:
            torch.save({"state_dict": state, "epoch": 3}, folder / name, **options)
        return folder / name

    return Reader(make, mutations.of_bytes, lambda path: load_weights(net(), path))


def _picture(name: str) -> Reader:
    from overq.study.data import Preprocess, open_images

    def make(folder: Path) -> Path:
        (folder / "images").mkdir()
        Image.fromarray(PICTURES[name]).save(folder / "images" / name)
        return folder / "images" / name

    preprocess = Preprocess(16, 12)
    return Reader(make, mutations.of_bytes, lambda path: open_images(path.parent, None, preprocess, labelled=False).load([0]))


def _npz(save: Callable[..., None]) -> Reader:
    from overq.study.data import Preprocess, open_images

    def make(folder: Path) -> Path:
        save(folder / "a.npz", images=np.zeros((5, 3, 6, 6), np.uint8), labels=np.arange(5))
        return folder / "a.npz"

    return Reader(make, mutations.of_bytes, lambda path: open_images(path, None, Preprocess()).load([0, 4]))


def _labels(path: Path) -> object:
    from overq.study.data import Preprocess, open_images

    return open_images(path.parent, path, Preprocess(None, None)).labels_below(3)


def _make_labels(folder: Path) -> Path:
    for name in "abc":
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    return text("labels.csv", "file,label\na.png,0\nb.png,1\nc.png,2\n")(folder)


def _study(path: Path) -> object:
    from overq.study.plan import read

    return read(path)


def _make_store(folder: Path) -> Path:
    from overq.methods import Cost
    from overq.study.cell import Cell
    from overq.study.measure import Measured
    from overq.study.plan import Network, Setting
    from overq.study.store import Store

    made = ("code", "c"), ("overq", "0"), ("torch", "2"), ("numpy", "2")
    settings = Setting("float"), Setting("overq", (("bits", 4), ("cascade", 4)), 8), Setting("olive", (("bits", 4),), 8)
    cells = [Cell("s", Network("n", "nets.py:net", "digits", "digits"), setting, 0, "x", made) for setting in settings]
    store = Store(folder / "s.sqlite")
    store.add("s", cells)
    for cell in cells[:2]:
        store.claim({cell.key}, 1)
        columns = {"top1": np.array([[1.0], [0.0], [1.0]])}
        store.finish({cell.key: (Measured(columns), Cost(4.0, 1.0, 4.0, 8), 1.0, dict(made) | {"commit": ""})})
    store.close()
    return folder / "s.sqlite"


def _show(path: Path) -> object:
    from overq.cli.study import show

    with TemporaryDirectory() as folder:  # SQLite's own files beside it belong to this content alone
        return show(Path(shutil.copy(path, folder)), None)


def damaged_cells(content: bytes, random: Random) -> bytes:
    """A store whose pages are whole and whose values are not; or damaged pages."""
    if random.random() < 0.4:
        return mutations.of_bytes(content, random)
    db = sqlite3.connect(":memory:")
    db.deserialize(content)
    column = random.choice([row[1] for row in db.execute("PRAGMA table_info(cells)")])
    value: Any = random.choice((None, "", "x", "\x1b[2J", 0, -1, 10**9, 1.5, b"\xff" * 9, "null", "[]", "3"))
    stored = db.execute(f"SELECT {column} FROM cells WHERE rowid=2").fetchone()[0]
    if isinstance(stored, bytes) and random.random() < 0.7:
        value = mutations.of_bytes(stored, random)
    elif isinstance(stored, str) and stored.startswith("{") and random.random() < 0.7:
        value = json.dumps(mutations.of_json(json.loads(stored), random))
    try:
        with db:
            db.execute(f"UPDATE cells SET {column}=? WHERE rowid=2", (value,))
    except sqlite3.Error:  # the table itself refuses it
        return mutations.of_bytes(content, random)
    return db.serialize()


@cache
def quantized() -> nn.Module:
    return overq.quantize(net(), torch.randn(4, 3, 8, 8), Recipe(Format(4, 4), overrides=(("5", LayerRule(Format(3, 2))),)))


def _make_artifact(folder: Path) -> Path:
    overq.save(quantized(), folder / "m.safetensors")
    return folder / "m.safetensors"


def signed_again(content: bytes, random: Random) -> bytes:
    """An artifact whose manifest is of another version or hand, with a digest that fits it."""
    from safetensors.torch import load, save

    from overq.nn.files import _digest

    size = int.from_bytes(content[:8], "little")
    manifest = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["overq"])
    manifest.pop("sha256")
    tensors = load(content)
    if random.random() < 0.3:
        name = random.choice(sorted(tensors))
        change = random.randrange(4)
        tensors[name] = (tensors[name].flatten()[1:], tensors[name].double(), tensors[name].float() / 0, tensors[name].short())[
            change
        ].contiguous()
    else:
        manifest = mutations.of_json(manifest, random)
    if isinstance(manifest, dict) and "sha256" not in manifest:
        manifest["sha256"] = _digest(tensors, manifest)
    return save(tensors, {"overq": json.dumps(manifest)})


def _recipe(path: Path) -> object:
    from overq.nn.recipe import read_recipe

    return read_recipe(path)


def _make_recipe(folder: Path) -> Path:
    from overq.methods import METHODS

    rules = tuple((f"{name}.*", LayerRule(method())) for name, method in METHODS.items())
    return text("r.json", json.dumps(Recipe(overrides=rules).to_json()))(folder)


def _make_sensitivity(folder: Path) -> Path:
    from overq.tune.sensitivity import sensitivity

    measured = sensitivity(net(), torch.randn(4, 3, 8, 8), [Format.plain(4), Format(3, 2)], recipe=Recipe(first=None))
    return text("s.json", json.dumps(measured.to_json()))(folder)


def _sensitivity(path: Path) -> object:
    from overq.tune.sensitivity import Sensitivity

    return Sensitivity.from_json(json.loads(path.read_bytes()))


def _make_vectors(folder: Path) -> Path:
    from overq.rtl.vectors import LayerVectors
    from overq.spec import ArrayConfig

    config = ArrayConfig(Format(4, 2), 8, 3, 2, 6)
    return text("v.json", LayerVectors.random(config, vectors=3, tiles=2, seed=0).to_json())(folder)


def _vectors(path: Path) -> object:
    from overq.rtl.vectors import LayerVectors

    return LayerVectors.load(path)


def _liberty(path: Path) -> object:
    from overq.eda.liberty import Library

    library = Library(path)
    return [library.cell(name) for name in library.names]


def _areas(path: Path) -> object:
    from overq.report.costs import read_areas

    return read_areas(path).get("A4 plain", 8)


def _cycles(path: Path) -> object:
    from overq.report.costs import read_cycles

    return read_cycles(path, ["net", "other"])


def _make_records(folder: Path) -> Path:
    from overq.records import Record
    from overq.report.records import to_csv

    plain = Record("s", "net", "a", "uniform", 8, 6, 75.0, -1.0, -2.0, 0.5, 4.0, 0.0, 4.0, 32.0, 8, None, None, 0, 1.0,
                   "0", "code", "commit", "2", "2", right="fc")  # fmt: skip
    return text("records.csv", to_csv([plain, replace(plain, label="b", method="overq", right="7c", own={"m": 1.5})]))(folder)


def _records(path: Path) -> object:
    from overq.report.records import read_csv

    return read_csv(path)


PAGES = """[[table]]
page = "page.md"
name = "t"
records = ["records.csv"]
corner = "network"
show = ["top1", "paired"]
against = "a"
rows = "networks"
columns = [{ head = "A4", label = "{kind}", kind = "b" }, { head = "plain", label = ["a", "b"], show = "bits" }]
"""


def _make_pages(folder: Path) -> Path:
    _make_records(folder)
    text("page.md", "# Page\n\n<!-- t -->\n<!-- end -->\n")(folder)
    return text("pages.toml", PAGES)(folder)


def _pages(path: Path) -> object:
    from overq.report.pages import made, read

    return made(read(path)[0])


def _make_onnx(folder: Path) -> Path:
    from onnx import TensorProto, helper, numpy_helper, save

    state = {key: value.numpy() for key, value in net().state_dict().items() if value.is_floating_point()}
    nodes = [
        helper.make_node("Conv", ["x", "0.weight", "0.bias"], ["a"], kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["a", *(f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var"))], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "5.weight", "5.bias"], ["y"], transB=1),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in (("x", [1, 3, 8, 8]), ("y", [1, 4]))]
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(value, key) for key, value in state.items()])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")
    return folder / "net.onnx"


def _onnx(path: Path) -> object:
    from overq.exchange import from_onnx

    return from_onnx(path)(torch.zeros(1, 3, 8, 8))


def _make_packed(folder: Path) -> Path:
    from overq.exchange.packing import save_packed

    save_packed(quantized(), folder / "net.overq")
    return folder / "net.overq"


def _packed(path: Path) -> object:
    from overq.exchange.inspect import inspect
    from overq.exchange.packed import load_packed

    inspect(path)
    return load_packed(path, net())


def checked_again(content: bytes, random: Random) -> bytes:
    """A packed file with other contents under a right checksum: a record, the manifest or anything."""
    import zlib

    from overq.exchange.packed import HEADER, HEADER_BYTES

    changed = bytearray(content)
    header = list(HEADER.unpack_from(content))
    if random.random() < 0.5:
        place, length = header[4:6]
        manifest = mutations.of_json(json.loads(zlib.decompress(content[place : place + length])), random)
        text = zlib.compress(json.dumps(manifest).encode(), 1)
        header[5] = len(text)
        changed[place:] = text + content[place + length :]
    else:
        last = random.choice([HEADER_BYTES + 152, len(content)])
        for _ in range(random.randint(1, 6)):
            changed[random.randrange(HEADER_BYTES, last)] = random.randrange(256)
    header[3], header[6] = len(changed), zlib.crc32(changed[HEADER_BYTES:])
    changed[: HEADER.size] = HEADER.pack(*header)
    return bytes(changed)


def _options(path: Path) -> object:
    from overq.cli.inputs import integers, numbers
    from overq.study.data import Preprocess

    words = dict(re.findall(r"(\w+)=(.*)", path.read_text(errors="surrogateescape")))
    integers("--bits", words.get("bits", ""))
    return Preprocess(16, 12, numbers("--mean", words.get("mean", "")), numbers("--std", words.get("std", "")))


READERS: dict[str, Reader] = {
    "model file": Reader(text("nets.py", FACTORY), mutations.of_bytes, _load_model),
    "model name": Reader(text("spec.txt", "overq.study.digits:network"), mutations.of_text, _load_spec),
    "checkpoint": _checkpoint("c.pt"),
    "old checkpoint": _checkpoint("c.pt", _use_new_zipfile_serialization=False),
    "safetensors": _checkpoint("c.safetensors"),
    **{f"image {name}": _picture(name) for name in PICTURES},
    "arrays": _npz(np.savez),
    "compressed arrays": _npz(np.savez_compressed),
    "labels": Reader(_make_labels, mutations.of_text, _labels),
    "study": Reader(text("s.toml", STUDY), mutations.of_text, _study),
    "store": Reader(_make_store, damaged_cells, _show),
    "artifact": Reader(_make_artifact, mutations.of_bytes, lambda path: overq.load(path, net())),
    "signed artifact": Reader(_make_artifact, signed_again, lambda path: overq.load(path, net())),
    "packed": Reader(_make_packed, mutations.of_bytes, _packed),
    "checked packed": Reader(_make_packed, checked_again, _packed),
    "recipe": Reader(_make_recipe, in_json, _recipe),
    "sensitivity": Reader(_make_sensitivity, by_structure, _sensitivity),
    "layer vectors": Reader(_make_vectors, in_json, _vectors),
    "liberty": Reader(text("l.lib", LIBERTY), mutations.of_text, _liberty),
    "areas": Reader(text("a.csv", AREAS), mutations.of_text, _areas),
    "cycles": Reader(text("c.csv", CYCLES), mutations.of_text, _cycles),
    "records": Reader(_make_records, mutations.of_text, _records),
    "pages": Reader(_make_pages, mutations.of_text, _pages),
    **({"onnx": Reader(_make_onnx, mutations.of_bytes, _onnx)} if find_spec("onnx") and find_spec("onnx_ir") else {}),
    "options": Reader(text("o.txt", "bits=4,3\nmean=0.5,0.5,0.5\nstd=0.2,0.2,0.2\n"), mutations.of_text, _options),
}
