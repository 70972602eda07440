"""Packed files: nothing lost, everything checked, and the same answers from the reader in C."""

from __future__ import annotations

import ctypes
import json
import random
import shutil
import subprocess
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import overq
from overq.errors import InputError, ModelFileError, OverqError
from overq.exchange.inspect import inspect
from overq.exchange.packed import load_packed, pack_bits, read_packed, unpack_bits
from overq.exchange.packing import save_packed
from overq.exchange.vectors import layer_vectors, write_vectors
from overq.integer import integer_network
from overq.methods import METHODS
from overq.spec import Format

GOLDEN = Path(__file__).parents[1] / "golden"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, (1, 3), groups=2, padding="same", dilation=2)
        self.c = nn.Linear(8, 300)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.norm(self.a(x))))).mean((2, 3)))


def sample() -> torch.Tensor:
    return torch.randn(6, 3, 9, 9, generator=torch.Generator().manual_seed(1))


@cache
def float_net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@cache
def model() -> nn.Module:
    return overq.quantize(float_net(), sample(), overq.Recipe(Format(4, 3, policy="largest"), 4, first=None, last=None))


def arranged() -> nn.Module:
    """With an order and a scale of the channels, as reordering and equalization leave them."""
    made = overq.quantize(float_net(), sample(), overq.Recipe(Format(4, 3), 5, first=None, last=None))
    layer: Any = made.b
    layer.lane_order, layer.input_scale = torch.tensor([2, 0, 3, 1]), torch.tensor([1.0, 0.5, 2.0, 3.0])
    layer._dequantize()
    return made


@pytest.mark.parametrize("bits", [1, 3, 4, 5, 8, 11, 16])
def test_bits_are_packed_without_gaps(bits: int) -> None:
    values = np.random.default_rng(bits).integers(-(1 << bits >> 1), max(1 << bits >> 1, 1), 77)
    data = pack_bits(values, bits)
    assert len(data) == -(-77 * bits // 8)
    np.testing.assert_array_equal(unpack_bits(data, 77, bits), values)


def test_a_packed_network_is_the_same_network(tmp_path: Path) -> None:
    path = tmp_path / "net.overq"
    for made in (model(), arranged()):
        save_packed(made, path)
        back = load_packed(path, float_net())
        with torch.no_grad():
            assert torch.equal(back(sample()), made(sample()))
        state, other = made.state_dict(), back.state_dict()
        assert state.keys() == other.keys()
        assert all(torch.equal(state[key], other[key]) for key in state)
    found = inspect(path)
    assert (found.kind, found.weights, len(found.rows)) == ("packed", 216 + 96 + 2400, 3)
    assert found.rows[0].weight_bits == 5


def test_a_four_bit_network_takes_half_a_byte_a_weight(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path, wide = tmp_path / "wide.overq", nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
    save_packed(overq.quantize(wide, torch.rand(16, 512), overq.Recipe(Format(), 4, first=None, last=None)), path)
    found = inspect(path)
    assert found.bytes <= 0.55 * found.weights
    assert set(found.widths) == {"A4 r3+f3 c4 W4"}


def test_output_stages_are_the_integer_networks(tmp_path: Path) -> None:
    path = tmp_path / "net.overq"
    save_packed(model(), path)
    network, stages = integer_network(model()), {layer.name: layer.stage for layer in read_packed(path).layers}
    for step in network.steps:
        if step.kind == "layer":
            found = stages[step.target]
            assert found is not None
            stage, unit = found
            assert unit == network.streams[step.name].unit
            assert stage["multiplier"].tolist() == network.entries[step.name].multiplier.tolist()
            assert stage["offset"].tolist() == network.entries[step.name].offset.tolist()


def test_what_a_packed_file_cannot_hold_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.overq"
    rival = overq.quantize(nn.Sequential(nn.Linear(8, 8)), torch.rand(8, 8), overq.Recipe(method=METHODS["mx"](), first=None, last=None))
    with pytest.raises(OverqError, match="layer '0': packed files hold formats of OverQ and plain ones, not|layer '0': a packed file"):
        save_packed(rival, path)
    deep = overq.quantize(nn.Sequential(nn.Conv3d(4, 4, 1)), torch.rand(2, 4, 3, 3, 3), overq.Recipe(first=None, last=None))
    with pytest.raises(InputError, match="layer '0': a packed file cannot say a QuantizedConv3d as this one"):
        save_packed(deep, path)
    assert not path.exists()


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "net.overq"
    save_packed(model(), path)
    whole = path.read_bytes()
    for content, why in (
        (b"", "not a packed overq file"), (whole[:-1], "its header says"), (whole[:40], "not a packed overq file"),
        (whole[:8] + b"\1" + whole[9:], "layout version 1"), (whole[:-9] + b"\0" + whole[-8:], "the checksum"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=why):
            read_packed(path)


# The reader in C -----------------------------------------------------------------------------------------


class CFormat(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint8) for name in ("bits", "cascade", "range_bits", "fraction_bits", "policy", "signed", "evict")] + [
        ("lanes", ctypes.c_uint32)
    ]


class CFile(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_void_p), ("size", ctypes.c_uint64), ("layers", ctypes.c_uint32)]


class CLayer(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p), ("name_bytes", ctypes.c_uint32),
        ("kind", ctypes.c_uint8), ("weight_bits", ctypes.c_uint8), ("offset_bits", ctypes.c_uint8), ("padding_mode", ctypes.c_uint8),
        ("format", CFormat), ("step", ctypes.c_double),
        *((name, ctypes.c_uint32) for name in ("groups", "outputs", "channels", "rows", "columns")),
        *((name, ctypes.c_uint32 * 2) for name in ("stride", "dilation", "before", "behind")),
        *((name, ctypes.c_void_p) for name in ("weights", "scale", "bias", "lane_order", "input_scale", "stage")),
        ("stage_unit", ctypes.c_double),
    ]  # fmt: skip


@cache
def library() -> Any:
    """overq.c, compiled by the system's compiler with every warning an error."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler here")
    folder = Path(mkdtemp(prefix="overq-c-"))
    source = Path(str(package_files("overq.exchange").joinpath("c", "overq.c")))
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", str(folder / "overq.so"), str(source), "-lm"], check=True, capture_output=True)
    made = ctypes.CDLL(str(folder / "overq.so"))
    shutil.rmtree(folder)
    made.overq_dot.restype = made.overq_stage.restype = ctypes.c_int64
    made.overq_fixed.argtypes = [ctypes.c_float, ctypes.c_double, ctypes.POINTER(CFormat)]
    made.overq_float.restype, made.overq_float.argtypes = ctypes.c_float, [ctypes.c_void_p, ctypes.c_uint32]
    made.overq_stage.argtypes = [ctypes.POINTER(CLayer), ctypes.c_uint32, ctypes.c_int64]
    return made


def c_format(fmt: Format) -> CFormat:
    policy = ("first", "largest").index(fmt.policy)
    return CFormat(fmt.bits, fmt.cascade, fmt.range_bits, fmt.fraction_bits, policy, fmt.signed, fmt.evict, fmt.lanes or 0)


def array(kind: Any, values: Any) -> Any:
    return (kind * len(values))(*values)


def encoded(t: list[int], fmt: Format) -> tuple[list[int], list[int]]:
    digits, states = (ctypes.c_int16 * len(t))(), (ctypes.c_uint8 * len(t))()
    library().overq_encode(array(ctypes.c_int32, t), len(t), ctypes.byref(c_format(fmt)), digits, states)
    return list(digits), list(states)


@pytest.mark.parametrize("file", sorted(path.name for path in GOLDEN.glob("*.json")))
def test_c_gives_the_golden_vectors(file: str) -> None:
    for case in json.loads((GOLDEN / file).read_text())["cases"]:
        fmt = Format.from_json(case["format"])
        for row in case["rows"]:
            assert encoded(row["t"], fmt) == (row["digits"], row["states"])
            digits, states = array(ctypes.c_int16, row["digits"]), array(ctypes.c_uint8, row["states"])
            effective, count, form = (ctypes.c_int32 * len(row["t"]))(), len(row["t"]), ctypes.byref(c_format(fmt))
            library().overq_effective(digits, states, count, form, effective)
            assert list(effective) == row["effective"]
            assert library().overq_dot(digits, states, array(ctypes.c_int32, row["weights"]), count, form) == row["dot"]


def test_giving_way_is_packed(tmp_path: Path) -> None:
    path, net, x = tmp_path / "net.overq", nn.Sequential(nn.Linear(8, 4)), torch.randn(16, 8)
    made = overq.quantize(net, x, overq.Recipe(Format(4, 4, evict=1), first=None, last=None))
    save_packed(made, path)
    (found,) = read_packed(path).layers
    assert found.format == made[0].format  # type: ignore[index]
    assert found.format.evict == 1
    with torch.no_grad():
        assert torch.equal(load_packed(path, net)(x), made(x))


def test_a_file_for_firmware_leaves_out_what_only_python_needs(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.overq", tmp_path / "firmware.overq"
    save_packed(model(), whole)
    save_packed(model(), path, firmware=True)
    first, second = read_packed(whole), read_packed(path)
    assert len(first.tensors) > len(second.tensors)
    for mine, other in zip(first.layers, second.layers, strict=True):
        assert mine.stage is not None
        assert other.stage is not None
        np.testing.assert_array_equal(mine.stage[0], other.stage[0])
        np.testing.assert_array_equal(mine.weights, other.weights)
    assert inspect(path).bytes < inspect(whole).bytes
    with pytest.raises(ModelFileError, match="a file for firmware: it has no batch norms"):
        load_packed(path, float_net())
    floats = nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1), nn.Linear(8, 4))
    no = overq.quantize(floats, torch.randn(8, 8), overq.Recipe(Format(), first=None, last=None))
    with pytest.raises(InputError, match="a file for firmware needs output stages, but this network does not run in integers: "):
        save_packed(no, tmp_path / "no.overq", firmware=True)


def test_c_reads_what_python_wrote(tmp_path: Path) -> None:
    path = tmp_path / "net.overq"
    save_packed(arranged(), path)
    content, file, layer = path.read_bytes(), CFile(), CLayer()
    assert library().overq_open(ctypes.byref(file), content, ctypes.c_uint64(len(content))) == 0
    found = read_packed(path)
    assert file.layers == len(found.layers)
    for i, mine in enumerate(found.layers):
        assert library().overq_layer_at(ctypes.byref(file), i, ctypes.byref(layer)) == 0
        assert ctypes.string_at(layer.name, layer.name_bytes).decode() == mine.name
        spelled = bytes(layer.format), layer.step, layer.groups, layer.weight_bits
        assert spelled == (bytes(c_format(mine.format)), mine.step, mine.groups, mine.weight_bits)
        assert (*layer.stride, *layer.dilation, *layer.before, *layer.behind) == mine.window
        shape = (layer.outputs, layer.channels, layer.rows, layer.columns)
        weights = [library().overq_weight(ctypes.byref(layer), *map(ctypes.c_uint32, place)) for place in np.ndindex(shape)]
        np.testing.assert_array_equal(np.reshape(weights, shape), mine.weights)
        assert [library().overq_float(layer.scale, o) for o in range(layer.outputs)] == mine.scale.tolist()
        assert (layer.lane_order is None, layer.bias is None) == (mine.lane_order is None, mine.bias is None)
        assert mine.stage is not None
        for total in (0, -1, 12345, -99999):
            wanted = (total * int(mine.stage[0]["multiplier"][0]) + int(mine.stage[0]["offset"][0])) >> int(mine.stage[0]["shift"][0])
            assert library().overq_stage(ctypes.byref(layer), 0, total) == wanted


def test_c_computes_a_layer_from_real_inputs_to_sums(tmp_path: Path) -> None:
    """The linear layer, from float inputs: t, lanes and sums are those of the vectors that Python writes."""
    arrays, facts = layer_vectors(model(), "c", sample())
    fmt = Format.from_json(facts["format"])
    for x, t, digits, states, sums in zip(*(arrays[name] for name in ("input", "t", "digits", "states", "sums")), strict=True):
        mine = [library().overq_fixed(float(value), facts["step"], ctypes.byref(c_format(fmt))) for value in x]
        assert mine == t.tolist()
        assert encoded(mine, fmt) == (digits.reshape(-1).tolist(), states.reshape(-1).tolist())
        pair = array(ctypes.c_int16, digits.reshape(-1).tolist()), array(ctypes.c_uint8, states.reshape(-1).tolist())
        for o in (0, 299):
            row = array(ctypes.c_int32, arrays["weights"][o].reshape(-1).tolist())
            assert library().overq_dot(*pair, row, len(mine), ctypes.byref(c_format(fmt))) == sums[o]


def test_c_refuses_damage_and_reads_nothing_outside(tmp_path: Path) -> None:
    import zlib

    path, rng = tmp_path / "net.overq", random.Random(0)
    save_packed(model(), path)
    whole, outcomes = path.read_bytes(), set()
    for trial in range(400):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(64 + 3 * 76 if trial % 2 else len(content))] = rng.randrange(256)
        if trial % 4:  # a right checksum over wrong contents
            content[36:40] = zlib.crc32(bytes(content[64:])).to_bytes(4, "little")
        file, layer = CFile(), CLayer()
        opened = library().overq_open(ctypes.byref(file), bytes(content), ctypes.c_uint64(len(content)))
        if opened == 0:
            file.bytes = ctypes.cast(ctypes.create_string_buffer(bytes(content), len(content)), ctypes.c_void_p)
            for i in range(file.layers):
                if library().overq_layer_at(ctypes.byref(file), i, ctypes.byref(layer)) == 0:
                    last = [ctypes.c_uint32(n - 1) for n in (layer.outputs, layer.channels, layer.rows, layer.columns)]
                    library().overq_weight(ctypes.byref(layer), *last)
                    library().overq_float(layer.scale, layer.outputs - 1)
        outcomes.add(opened)
    assert {0, 3} <= outcomes


# Vectors -------------------------------------------------------------------------------------------------


def test_vectors_are_those_of_the_integer_layer(tmp_path: Path) -> None:
    arrays, facts = layer_vectors(model(), "b", sample()[:1])
    folder = tmp_path / "vectors"
    write_vectors(folder, arrays, facts)
    assert arrays["digits"].shape == (1, 5, 5, 2, 4)
    whole = json.loads((folder / "vectors.json").read_text())
    for name, bits in facts["bits"].items():
        lines = (folder / f"{name}.hex").read_text().split()
        values = [int(line, 16) - (int(line, 16) >> (bits - 1) << bits) * (arrays[name].min() < 0) for line in lines]
        assert values == np.load(folder / f"{name}.npy").reshape(-1).tolist() == np.asarray(whole[name]).reshape(-1).tolist()
    with pytest.raises(InputError, match="no quantized layer is named 'd'; there are a, b, c"):
        layer_vectors(model(), "d", sample())
