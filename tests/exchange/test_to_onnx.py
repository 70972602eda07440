"""ONNX out: `overq::overwrite` bit for bit in plain onnxruntime, networks of PyTorch and of ONNX files, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import overq
from overq.errors import InputError, OverqWarning
from overq.nn.layers import by_group
from overq.spec import Format

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")

from overq.exchange import to_onnx  # noqa: E402
from overq.exchange.beside import in_float64  # noqa: E402
from overq.exchange.exact import pieces  # noqa: E402
from overq.exchange.overwriting import exact_type, lane_counts, overwrite_function, rows, tiles_of  # noqa: E402
from overq.integer import integer_network  # noqa: E402
from overq.kernels.scale import factors  # noqa: E402
from overq.methods import Dynamic, OverQ, Uniform  # noqa: E402
from overq.study import digits  # noqa: E402

STEP = 0.37


def run(file: Path | bytes, *inputs: np.ndarray) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # else it quantizes inputs of INT8 products itself
    session = onnxruntime.InferenceSession(file if isinstance(file, bytes) else str(file), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip([v.name for v in session.get_inputs()], inputs, strict=True)))[0]


# The function ------------------------------------------------------------------------------------------

FORMATS = [
    Format(),
    Format(4, 4, policy="largest"),
    Format(4, 1),
    Format(2, 3, 2, 2),
    Format(3, 16, 3, 0),
    Format(4, 2, 0, 4),
    Format(4, 2, 0, 4, "largest"),
    Format(3, 8, 2, 0, "largest"),
    Format(4, 4, signed=True),
    Format(3, 3, 3, 3, "largest", True),
    Format(8, 4, 8, 8),  # numbers that float32 does not hold
    Format(8, 2, 8, 8, "largest"),
    Format(4, 4, lanes=8),
    Format(4, 4, policy="largest", lanes=5),  # the last tile is short
    Format(4, 3, signed=True, lanes=3),
    Format(4, 4, evict=1),
    Format(4, 3, policy="largest", signed=True, evict=3),
    Format(2, 8, 2, 2, evict=2),
    Format(3, 16, 3, 0, signed=True, evict=3),
    Format(4, 4, policy="largest", lanes=5, evict=2),  # the last tile is short, and what fills it must not give way
    Format.plain(4),
    Format.plain(8, signed=True),
]
PLACES = {"image": ((2, 16, 3, 5), 1), "two groups": ((2, 16, 3, 5), 2), "sequence": ((3, 12, 7), 1), "rows": ((9, 21), 1)}


def awkward(shape: tuple[int, ...], fmt: Format, seed: int) -> np.ndarray:
    """Zeros, outliers, ties of every kind, NaN and infinities."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * STEP * fmt.base * rng.choice([0.1, 0.5, 1.0], shape)
    x = np.where(rng.random(shape) < 0.3, 0, x)
    x = np.where(rng.random(shape) < 0.4, np.round(x / STEP * 2 ** (fmt.fraction_bits + 1)) / 2 ** (fmt.fraction_bits + 1) * STEP, x)
    x = (x if fmt.signed else np.abs(x)).astype(np.float32)
    x.flat[[1, 5, -2]] = np.nan, np.inf, -np.inf
    return x


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f"{f.label} {f.policy} {f.signed} {f.lanes}".replace(" ", "_"))
def test_the_function_is_overwrite_bit_for_bit(fmt: Format, place: str) -> None:
    shape, groups = PLACES[place]
    linear = place == "rows"
    x = awkward(shape, fmt, 3)
    tiles = tiles_of(fmt, shape[1], groups)
    function = overwrite_function("overwrite", fmt, tiles if tiles.short else None, exact_type(fmt, tiles.lanes))
    constants = [*map(np.float32, factors(STEP, fmt)), *([np.array(rows(tiles, linear)), lane_counts(tiles)] if fmt.cascade else [])]
    values = [ir.Value(name=f"c{i}", const_value=ir.tensor(np.asarray(c))) for i, c in enumerate(constants)]
    given = ir.val("x", ir.DataType.FLOAT, shape)
    node = ir.Node("overq", "overwrite", [given, *values])
    node.outputs[0].type, node.outputs[0].shape, node.outputs[0].name = given.type, given.shape, "out"
    graph = ir.Graph([given], node.outputs, nodes=[node], initializers=values, opset_imports={"": 13, "overq": 1}, name="g")
    proto = ir.to_proto(ir.Model(graph, ir_version=8, functions=[function]))
    onnx.checker.check_model(proto, full_check=True)
    tensor, there, dim = by_group(torch.from_numpy(x), fmt, -1 if linear else 1 - len(shape), groups)
    wanted = overq.overwrite(tensor, STEP, there, dim).reshape(shape).numpy()
    np.testing.assert_array_equal(run(proto.SerializeToString(), x), wanted)
    assert len(function) < (120 if fmt.evict else 80)


def test_a_format_beyond_every_exact_number_is_refused() -> None:
    with pytest.raises(overq.OverqError, match="has no ONNX form: it needs integers up to"):
        exact_type(Format(8, 16, 8, 8, "largest"), 1 << 24)


# Networks ----------------------------------------------------------------------------------------------


class Net(nn.Module):
    """What convolutional networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, "same", bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.mirror = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect", groups=2)
        self.deep = nn.Conv2d(8, 8, 3, 2, 1, groups=8)
        self.act = nn.ModuleList([nn.Hardswish(), nn.SiLU(), nn.LeakyReLU(0.2), nn.ELU(), nn.GELU(), nn.Softplus(), nn.Tanh()])
        self.pool, self.up = nn.MaxPool2d(3, 2, ceil_mode=True), nn.Upsample(scale_factor=2)
        self.head, self.last = nn.Linear(32, 12), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.cat([x[:, :4], self.mirror(x)[:, 4:]], 1) + 0.5 * x - 0.1
        y = self.deep(x)
        for act in self.act:
            y = act(y)
        y = torch.maximum(self.pool(y), y.view(y.size(0), 8, 4, 2, 4, 2).mean((3, 5)))
        a, b = (torch.nn.functional.avg_pool2d(self.up(y), 2, count_include_pad=False) * 2).chunk(2, 1)
        y = torch.nn.functional.pad(a.permute(0, 2, 3, 1) - b.transpose(1, 2).transpose(2, 3), (0, 0, 0, 0, 0, 1))
        y = nn.functional.adaptive_avg_pool2d(y[:, :4].permute(0, 3, 1, 2), (2, 4))
        return self.last(self.head(y.flatten(1)).clamp(-3, 3))


def quantized(net: nn.Module, x: torch.Tensor, fmt: Format, **options: Any) -> nn.Module:
    return overq.quantize(net, x, overq.Recipe(fmt, first=None, last=None, **options))


def parts(file: Path) -> tuple[Any, int]:
    """(the file, its nodes, functions included)."""
    model = onnx.load(file)
    return model, len(model.graph.node) + sum(len(f.node) for f in model.functions)


@pytest.mark.filterwarnings("ignore:.*round ties to even:overq.errors.OverqWarning")
@pytest.mark.parametrize("form", ["exact", "qdq"])
def test_a_network_of_every_kind_of_operation(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x, path = Net().eval(), torch.randn(6, 3, 16, 16), tmp_path / "net.onnx"
    model = quantized(net, x, Format(4, 4, signed=True))
    layer = model.mirror
    layer.lane_order, layer.input_scale = torch.tensor([2, 0, 3, 1]), torch.tensor([1.0, 0.5, 2.0, 3.0])
    layer.weight_integers = layer.weight_integers[:, layer.lane_order]  # as a reordered layer's lie
    layer._dequantize()
    notes = to_onnx(model, path, form=form)
    assert len(notes) == (form == "qdq")  # the depthwise layer is plain
    wanted = in_float64(model, x)
    off = np.abs(run(path, x.numpy()) - wanted).max(1) > 1e-4 * np.abs(wanted).max()
    assert off.sum() <= 1  # erf, elu and softplus are float32 in onnxruntime: a value may fall to the other side of a step's edge
    assert parts(path)[0].opset_import[0].version == 13


def parted(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, of the largest score."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def test_digits_are_the_simulation_in_float64_and_stay_small(tmp_path: Path) -> None:
    images, path = digits.images("test")[0], tmp_path / "digits.onnx"
    model = overq.quantize(digits.network(), digits.images("calibration")[0][:256], overq.Recipe(Format(4, 4)))
    to_onnx(model, path)
    _, count = parts(path)
    assert count <= 300
    got, wanted = run(path, images.numpy()), in_float64(model, images)
    assert (got.argmax(1) == wanted.argmax(1)).all()
    assert parted(got, wanted) <= 1e-6


METHODS_OUT = {
    "uniform, max": Dynamic(Uniform(8)),
    "uniform, rms": Dynamic(Uniform(6), "rms"),
    "overq, max": Dynamic(OverQ(4, 3)),
    "overq, rms, tiles": Dynamic(OverQ(4, 3, policy="largest", lanes=5), "rms"),
    "overq, values give way": Dynamic(OverQ(4, 3, evict=2)),
}


@pytest.mark.parametrize("name", METHODS_OUT)
def test_steps_of_vectors(name: str, tmp_path: Path) -> None:
    """Matrix products are settled; a convolution adds its products in float32."""
    torch.manual_seed(0)
    path, x = tmp_path / "m.onnx", torch.randn(3, 7, 24) * torch.logspace(-2, 2, 7)[:, None]
    options = {"first": None, "last": None, "method": METHODS_OUT[name]}
    net = nn.Sequential(nn.Linear(24, 33), nn.Hardswish(), nn.Linear(33, 5))
    model = overq.quantize(net, x, overq.Recipe(**options))
    to_onnx(model, path)
    assert parted(run(path, x.numpy()), in_float64(model, x)) <= 1e-6
    image = torch.randn(2, 8, 6, 6)
    model = overq.quantize(nn.Sequential(nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1, groups=2)), image, overq.Recipe(**options))
    to_onnx(model, path)
    assert parted(run(path, image.numpy()), in_float64(model, image)) <= (0.05 if "uniform" not in name else 0.02)


@pytest.mark.parametrize("groups", [1, 2])
def test_rotated_inputs(groups: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path, x = tmp_path / "m.onnx", torch.randn(4, 24, 6, 6)
    net = nn.Sequential(nn.Conv2d(24, 10, 3, groups=groups), nn.SiLU(), nn.Flatten(), nn.Linear(160, 5))
    model = quantized(net, x, Format(4, 4, signed=True), rotate=True)
    assert all(layer.rotation is not None for layer in (model[0], model[3]))  # type: ignore[index]
    to_onnx(model, path)
    assert parted(run(path, x.numpy()), in_float64(model, x)) <= 1e-6
    with pytest.raises(InputError, match="layer '0': a rotation of the input at run time has no ONNX form but exact"):
        to_onnx(model, path, form="qdq")


def test_sums_that_float32_does_not_hold_are_cut(tmp_path: Path) -> None:
    """Largest inputs on largest weights, 300 deep: the sum has 39 bits."""
    path, fmt, net = tmp_path / "m.onnx", Format(8, 4, 8, 8), nn.Sequential(nn.Linear(300, 4))
    torch.manual_seed(0)
    with torch.no_grad():
        net[0].weight.copy_(torch.rand(4, 300) + 0.2)  # type: ignore[operator]
    x = torch.rand(6, 300)
    model = quantized(net, x, fmt)
    assert pieces(fmt, model[0].weight_integers.numpy(), "").count > 2  # type: ignore[index, union-attr]
    to_onnx(model, path)
    assert parted(run(path, x.numpy() * 50), in_float64(model, x * 50)) <= 1e-7
    deep = np.ones((1, 1 << 24), np.int8)
    with pytest.raises(InputError, match="layer 'deep': sums over 16,777,216 weights have no exact form"):
        pieces(fmt, deep, "deep")


def test_four_bit_weights_take_half_a_byte(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, path = torch.rand(64, 256), tmp_path / "wide.onnx"
    model = quantized(nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10)), x, Format.plain(8), weight_bits=4)
    with pytest.warns(OverqWarning, match="2 plain layers round ties to even"):
        to_onnx(model, path, form="qdq")
    assert path.stat().st_size < 0.55 * (256 * 512 + 5120) + 4096
    assert parts(path)[0].opset_import[0].version == 21
    with torch.no_grad():
        assert np.abs(run(path, x.numpy()) - model(x).numpy()).max() < 0.02


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_file_keeps_its_graph(tmp_path: Path) -> None:
    """The layers of an ONNX file are replaced in it; attention and whatever else it holds stay."""
    from test_exported import Attention

    torch.manual_seed(0)
    source, path, x = tmp_path / "in.onnx", tmp_path / "out.onnx", torch.randn(3, 7, 16)
    torch.onnx.export(
        Attention().eval(), (x,), str(source), dynamo=False, opset_version=14, input_names=["x"], dynamic_axes={"x": {0: "n"}}
    )
    model = quantized(overq.from_onnx(source, x), x, Format(4, 3, signed=True), bias_correction=True)
    to_onnx(model, path)
    made = onnx.load(path)
    assert [v.name for v in made.graph.output] == [v.name for v in onnx.load(source).graph.output]
    assert path.stat().st_size < source.stat().st_size
    more = torch.cat([x, x.flip(1)])
    with torch.no_grad():
        np.testing.assert_allclose(run(path, more.numpy()), model(more).numpy(), atol=1e-2)
    source.write_bytes(source.read_bytes() + b"\0")
    with pytest.raises(InputError, match="it changed or went since"):
        to_onnx(model, path)


def test_what_has_no_form_is_named(tmp_path: Path) -> None:
    x = torch.randn(4, 8)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.rfft(self.layer(x)).abs()

    path = tmp_path / "x.onnx"
    with pytest.raises(InputError, match=r"operation 'fft_rfft' .* has no ONNX form here; export the float model"):
        to_onnx(quantized(Odd(), x, Format(signed=True)), path)
    from overq.methods import METHODS

    rival = overq.quantize(nn.Sequential(nn.Linear(8, 8)), x, overq.Recipe(method=METHODS["mx"](), first=None, last=None))
    with pytest.raises(InputError, match="has no ONNX form; formats of OverQ and plain ones have, with one step or with one a vector"):
        to_onnx(rival, path)
    with pytest.raises(InputError, match="form must be one of exact, qdq, integer"):
        to_onnx(quantized(nn.Sequential(nn.Linear(8, 8)), x, Format(signed=True)), path, form="tflite")
    with pytest.raises(InputError, match="summary needs a model that overq.quantize"):
        to_onnx(nn.Linear(8, 8), path)
    assert not path.exists()


# Integers ----------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Two streams that meet, windows, a sum over an image, groups, matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.b, self.c, self.d = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Linear(32, 12), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.a(x)))
        x = nn.functional.max_pool2d(x, 3, 2, 1) + 0.5 * nn.functional.avg_pool2d(self.b(x)[:, :, :8, :8], 2)
        return self.d(self.c(nn.functional.avg_pool2d(x, 2).flatten(1)).clamp(-3, 3))


@pytest.mark.parametrize(
    "fmt",
    [
        Format(4, 3, signed=True),
        Format(4, 4, policy="largest"),
        Format(8, 4, 8, 8),
        Format.plain(8),
        Format(4, 2, lanes=2),
        Format(4, 4, evict=2),
    ],
    ids=lambda f: f"{f.label} {f.policy}".replace(" ", "_"),
)
def test_integers_are_the_integer_networks(fmt: Format, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, path = torch.randn(6, 3, 16, 16), tmp_path / "integers.onnx"
    model = quantized(Small().eval(), x, fmt)
    assert to_onnx(model, path, form="integer") == ()
    network = integer_network(model, check=False)
    more = torch.cat([x, 3 * x.flip(1)])
    np.testing.assert_array_equal(run(path, more.numpy()), network(more).numpy())
    assert float({p.key: p.value for p in onnx.load(path).metadata_props}["overq.unit"]) == network.unit


def test_what_integers_cannot_say_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Linear(8 * 64, 4))
    model = quantized(net.eval(), torch.randn(4, 3, 16, 16), Format(4, 3, signed=True))
    with pytest.raises(InputError, match=r"operation '_1' \(AvgPool2d\) has no ONNX form here: not in integers"):
        to_onnx(model, tmp_path / "x.onnx", form="integer")
