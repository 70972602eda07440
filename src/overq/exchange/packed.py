"""The packed file of a quantized network: weights at their bits, for firmware. `c/overq.h` and `c/overq.c` read it, too.

Little endian throughout; sections begin at multiples of 8.

    header, 64 bytes
        0   8 bytes  "OVERQ1\\r\\n"
        8   u32      version of this layout
        12  u32      number of layers
        16  u64      bytes of the file
        24  u64, u32 where the manifest is, and how many bytes it has (JSON under zlib, for people and for Python)
        36  u32      CRC-32 of everything behind the header
        40           zeros
    layers, 144 bytes each, in the order of the network: `LAYER`
    data, where layers and manifest point: names, weights, scales, biases, orders, all other tensors of the network

Weights [O, C, kh, kw] (C channels of a group; Linear: kh = kw = 1) lie one behind the other in their order, `weight_bits` each, two's
complement, least significant bit first: bit k of the stream is bit k % 8 of byte k // 8. A weight is worth its integer · scale[o].

The output stage, where the whole network runs in integers (`overq.integer`): y = (sum · multiplier + offset) >> shift for each output, in
a unit of its own; the batch norm and bias behind the layer are in it, and rows with a negative factor have their weights negated in
the sum. Where it does not, the manifest says why under "integer".
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from overq.errors import FormatError, InputError, ModelFileError, OverqError
from overq.exchange.fields import check_fields
from overq.integer import integer_network
from overq.nn import files, layers
from overq.output import staged
from overq.spec import Format
from overq.spec.format import POLICIES

MAGIC = b"OVERQ1\r\n"
VERSION = 1
HEADER = struct.Struct("<8sIIQQII")
HEADER_BYTES = 64
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)
PADDINGS = ("zeros", "reflect", "replicate", "circular")
# kind, weight_bits, bits, cascade, range_bits, fraction_bits, policy, signed, padding mode, 3 spare; lanes (0: the whole vector), groups,
# O, C, kh, kw, stride 2, dilation 2, pads top left bottom right, bytes of the name; step; places (0: none) of name, weights, scale, bias,
# order, divisors, output stage; unit of the output stage
LAYER = struct.Struct("<9B3x15Id7Qd")
STAGE = np.dtype([("offset", "<i8"), ("multiplier", "<u4"), ("shift", "<u4")])
BIGGEST = 1 << 31
WIDEST = 16  # bits of a weight
FAULTS = (  # what reading nonsense raises
    struct.error, zlib.error, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError, MemoryError,
    RuntimeError, OverqError,
)  # fmt: skip


@dataclass(frozen=True)
class PackedLayer:
    """One layer of a file, checked.

    weights  int32 [O, C, kh, kw]; weight_bits each in the file
    window   stride 2, dilation 2, pads top left bottom right
    stage    `STAGE` [O] and what one unit of its results is worth; None where the network does not run in integers
    """

    name: str
    kind: str
    format: Format
    step: float
    weight_bits: int
    weights: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | None
    lane_order: np.ndarray | None
    input_scale: np.ndarray | None
    groups: int
    window: tuple[int, ...]
    padding_mode: str
    stage: tuple[np.ndarray, float] | None


@dataclass(frozen=True)
class PackedFile:
    """tensors: the network's state_dict as `overq.save` would store it; manifest: as there."""

    path: Path
    bytes: int
    layers: tuple[PackedLayer, ...]
    tensors: dict[str, Tensor]
    manifest: dict[str, Any]

    @property
    def weights(self) -> int:
        return sum(layer.weights.size for layer in self.layers)


def pack_bits(values: np.ndarray, bits: int) -> bytes:
    """Integers as a stream of `bits` bits each, two's complement, least significant first."""
    flat = values.reshape(-1).astype(np.int64)
    spread = (flat[:, None] >> np.arange(bits)) & 1
    return np.packbits(spread.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpack_bits(data: bytes, count: int, bits: int) -> np.ndarray:
    """The inverse: int32 [count]."""
    stream = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little", count=count * bits).reshape(count, bits)
    values = stream.astype(np.int32) @ (1 << np.arange(bits, dtype=np.int32))
    return values - ((values >> (bits - 1)) << bits)


# Writing -------------------------------------------------------------------------------------------------


def save_packed(model: nn.Module, path: str | Path) -> None:
    """Write a quantized model to one packed file, whole or not at all.

    Raises InputError and FormatError, with the layer's name, for what the file cannot hold: methods without a number format of ours,
    steps that vectors give themselves, layers that convolve in a way of their own.
    """
    path = Path(path)
    manifest, tensors = files.contents(model, path)
    modules = dict(model.named_modules())
    names = [report["name"] for report in manifest["summary"]["layers"]]
    data = _Data(HEADER_BYTES + len(names) * LAYER.size)
    stages, manifest["integer"] = _stages(model)
    records = b"".join(_record(name, modules[name], tensors, data, stages.get(name)) for name in names)
    rest = {}
    for name, tensor in tensors.items():
        if not any(name == f"{layer}.{part}" or name == part for layer in names for part in _parts(layer)):
            kind, values = str(tensor.dtype).removeprefix("torch."), tensor
            if kind == "bfloat16":
                values = tensor.view(torch.int16)
            rest[name] = [kind, list(tensor.shape), data.add(values.contiguous().numpy().tobytes())]
    manifest["rest"] = rest
    manifest["widths"] = {name: str(tensors[f"{name}.weight_integers" if name else "weight_integers"].dtype)[6:] for name in names}
    text = zlib.compress(json.dumps(manifest).encode(), 9)
    place = data.add(text)
    body = records + bytes(data.content)
    header = HEADER.pack(MAGIC, VERSION, len(names), HEADER_BYTES + len(body), place, len(text), zlib.crc32(body))
    with staged(path) as temporary:
        temporary.write_bytes(header.ljust(HEADER_BYTES, b"\0") + body)


class _Data:
    """Sections that grow; the first one begins at `start`."""

    def __init__(self, start: int) -> None:
        self.start, self.content = start, bytearray()

    def add(self, section: bytes) -> int:
        place = self.start + len(self.content)
        self.content += section + bytes(-len(section) % 8)
        return place


def _parts(name: str) -> tuple[str, ...]:
    return ("weight_integers", "weight_scale", "bias", "lane_order", "input_scale")


def _stages(model: nn.Module) -> tuple[dict[str, tuple[np.ndarray, float]], str]:
    """(output stage by layer, why there is none)."""
    try:
        network = integer_network(model, check=False)
    except (InputError, FormatError) as error:
        return {}, " ".join(str(error).split())
    found: dict[str, tuple[np.ndarray, float]] = {}
    for step in network.steps:
        if step.kind != "layer":
            continue
        if step.target in found:
            return {}, f"layer {step.target!r} runs more than once, each time with another output stage"
        entry, outputs = network.entries[step.name], len(network.layers[step.name].weights)
        stage = np.zeros(outputs, STAGE)
        for part in STAGE.names or ():
            stage[part] = getattr(entry, part).expand(outputs).numpy()
        found[step.target] = stage, network.streams[step.name].unit
    return found, ""


def _record(name: str, layer: Any, tensors: dict[str, Tensor], data: _Data, stage: tuple[np.ndarray, float] | None) -> bytes:
    fmt = layer.format
    if fmt is None or not isinstance(layer.step, float):
        raise FormatError(f"layer {name!r}: a packed file holds formats of OverQ and plain ones, not {layer.fitted.describe()}")
    check_fields(fmt, "has no place in a packed file", f"layer {name!r}: ")
    if (base := layers.kind(layer)) not in KINDS or layer.rotation is not None or "_conv_forward" in vars(layer):
        what = "a rotated input" if layer.rotation is not None else f"a {type(layer).__name__} as this one"
        raise InputError(f"layer {name!r}: a packed file cannot say {what}; it holds {', '.join(kind.__name__ for kind in KINDS)}")
    prefix = f"{name}." if name else ""
    weights = tensors[prefix + "weight_integers"].numpy()
    needed = 1 + int(max(int(weights.max(initial=0)), -int(weights.min(initial=0)) - 1)).bit_length()
    bits = max(layer.weight_bits, needed)
    window, mode = _window(layer)
    shape = (*weights.shape[:2], *(1,) * (4 - weights.ndim), *weights.shape[2:]) if weights.ndim < 4 else weights.shape
    called = name.encode()
    places = [data.add(called), data.add(pack_bits(weights, bits)), data.add(_floats(tensors[prefix + "weight_scale"]))]
    for part, kinds in (("bias", "<f4"), ("lane_order", "<u4"), ("input_scale", "<f4")):
        value = tensors.get(prefix + part)
        places.append(0 if value is None else data.add(value.float().numpy().astype(kinds).tobytes()))
    places.append(0 if stage is None else data.add(stage[0].tobytes()))
    switches = (
        KINDS.index(base),
        bits,
        fmt.bits,
        fmt.cascade,
        fmt.range_bits,
        fmt.fraction_bits,
        POLICIES.index(fmt.policy),
        fmt.signed,
        mode,
    )
    numbers = (fmt.lanes or 0, getattr(layer, "groups", 1), *shape, *window, len(called))
    return LAYER.pack(*map(int, switches), *numbers, layer.step, *places, 0.0 if stage is None else stage[1])


def _floats(tensor: Tensor) -> bytes:
    return tensor.float().numpy().astype("<f4").tobytes()


def _window(layer: Any) -> tuple[tuple[int, ...], int]:
    """(stride 2, dilation 2, pads top left bottom right; padding mode) of a layer."""
    if isinstance(layer, nn.Linear):
        return (1, 1, 1, 1, 0, 0, 0, 0), 0
    tall = 2 - len(layer.kernel_size)
    if layer.padding == "same":
        whole = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        before, after = [w // 2 for w in whole], [w - w // 2 for w in whole]
    else:
        before = after = [0] * len(layer.kernel_size) if layer.padding == "valid" else list(layer.padding)
    pads = [0] * tall + before + [0] * tall + after
    return ((1,) * tall + tuple(layer.stride) + (1,) * tall + tuple(layer.dilation) + tuple(pads)), PADDINGS.index(layer.padding_mode)


# Reading -------------------------------------------------------------------------------------------------


def read_packed(path: str | Path) -> PackedFile:
    """A packed file, every number checked. ModelFileError in one line for what is none, is damaged or of another version."""
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    content = path.read_bytes()
    try:
        return _Reader(path, content).file()
    except ModelFileError:
        raise
    except FAULTS as error:
        raise ModelFileError(f"{path}: damaged: {type(error).__name__}: {' '.join(str(error).split())[:160]}") from error


def is_packed(path: Path) -> bool:
    """Whether a file begins like one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def load_packed(path: str | Path, model: nn.Module) -> nn.Module:
    """As `overq.load`: the quantized model of a packed file, on the architecture of the float `model`, which is left as it was."""
    found = read_packed(path)
    return files.restored(found.manifest, found.tensors, model, found.path)


class _Reader:
    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def damaged(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: damaged: {what}")

    def file(self) -> PackedFile:
        content = self.content
        if content[:8] != MAGIC or len(content) < HEADER_BYTES:
            raise ModelFileError(f"{self.path}: not a packed overq file")
        _, version, count, size, place, length, crc = HEADER.unpack_from(content)
        if version != VERSION:
            raise ModelFileError(f"{self.path}: layout version {version}; this overq reads version {VERSION}")
        if size != len(content):
            raise self.damaged(f"its header says {size:,} bytes, it has {len(content):,}")
        if zlib.crc32(content[HEADER_BYTES:]) != crc:
            raise self.damaged("the checksum is not that of the contents")
        if HEADER_BYTES + count * LAYER.size > size:
            raise self.damaged(f"{count} layers do not fit into it")
        unzip = zlib.decompressobj()
        manifest = json.loads(unzip.decompress(self.section(place, length), BIGGEST))
        tensors: dict[str, Tensor] = {}
        found = []
        for i in range(count):
            layer = self.layer(HEADER_BYTES + i * LAYER.size)
            found.append(layer)
            tensors |= self.tensors(layer, manifest)
        for name, (kind, shape, where) in manifest.pop("rest").items():
            tensors[name] = self.tensor(kind, shape, where)
        manifest.pop("widths")
        said = [report["name"] for report in manifest["summary"]["layers"]]
        if said != [layer.name for layer in found]:
            raise self.damaged("manifest and table name other layers")
        return PackedFile(self.path, size, tuple(found), tensors, manifest)

    def section(self, place: int, length: int) -> bytes:
        if not (place >= HEADER_BYTES and place + length <= len(self.content)):
            raise self.damaged(f"a section of {length:,} bytes at {place:,} is not in it")
        return self.content[place : place + length]

    def array(self, place: int, kind: str, count: int) -> np.ndarray | None:
        return None if not place else np.frombuffer(self.section(place, 4 * count), kind).copy()

    def layer(self, at: int) -> PackedLayer:
        *switches, lanes, groups, outputs, inputs, tall, wide = (fields := LAYER.unpack_from(self.content, at))[:15]
        kind, bits, digit_bits, cascade, range_bits, fraction_bits, policy, signed, mode = switches
        window, length, step, places, unit = fields[15:23], fields[23], fields[24], fields[25:32], fields[32]
        name = self.section(places[0], length).decode()
        count, total = outputs * inputs * tall * wide, inputs * groups
        if not (0 < count < BIGGEST and groups > 0 and total < BIGGEST and outputs % groups == 0 and 1 <= bits <= WIDEST and signed < 2):
            raise self.damaged(f"layer {name!r}: {count:,} weights of {bits} bits in {groups} groups")
        fmt = Format(digit_bits, cascade, range_bits, fraction_bits, POLICIES[policy], bool(signed), lanes or None)
        weights = unpack_bits(self.section(places[1], -(-count * bits // 8)), count, bits).reshape(outputs, inputs, tall, wide)
        scale, bias = self.array(places[2], "<f4", outputs), self.array(places[3], "<f4", outputs)
        order, divisors = self.array(places[4], "<u4", inputs), self.array(places[5], "<f4", inputs)
        if not (scale is not None and _positive(scale) and _positive(step) and (divisors is None or _positive(divisors))):
            raise self.damaged(f"layer {name!r}: a scale or step is not positive and finite")
        if order is not None and not np.array_equal(np.sort(order), np.arange(inputs)):
            raise self.damaged(f"layer {name!r}: its lane order is no permutation")
        stage = None
        if places[6]:
            if not _positive(unit):
                raise self.damaged(f"layer {name!r}: the unit of its output stage is not positive and finite")
            stage = np.frombuffer(self.section(places[6], STAGE.itemsize * outputs), STAGE).copy(), unit
        named = PADDINGS[mode]
        return PackedLayer(name, KINDS[kind].__name__, fmt, step, bits, weights, scale, bias, order, divisors, groups, window, named, stage)

    def tensors(self, layer: PackedLayer, manifest: dict[str, Any]) -> dict[str, Tensor]:
        """As `overq.save` names them."""
        prefix = f"{layer.name}." if layer.name else ""
        dims = {"Linear": 2, "Conv1d": 3, "Conv2d": 4}[layer.kind]
        shape = layer.weights.shape[:2] + layer.weights.shape[4 - (dims - 2) :]
        width = {"int8": np.int8, "int16": np.int16}[manifest["widths"][layer.name]]
        if width is np.int8 and layer.weight_bits > 8:
            raise self.damaged(f"layer {layer.name!r}: weights of {layer.weight_bits} bits are not int8")
        found = {"weight_integers": layer.weights.reshape(shape).astype(width), "weight_scale": layer.scale, "bias": layer.bias}
        found |= {"lane_order": None if layer.lane_order is None else layer.lane_order.astype(np.int64), "input_scale": layer.input_scale}
        return {prefix + name: torch.from_numpy(value) for name, value in found.items() if value is not None}

    def tensor(self, kind: str, shape: list[int], place: int) -> Tensor:
        dtype = getattr(torch, kind)
        if not isinstance(dtype, torch.dtype) or not all(isinstance(s, int) and 0 <= s < BIGGEST for s in shape):
            raise self.damaged(f"a tensor of {kind} {shape}")
        count = int(np.prod(shape, dtype=object)) * dtype.itemsize
        raw = self.section(place, count)
        return (torch.frombuffer(bytearray(raw), dtype=dtype) if count else torch.empty(0, dtype=dtype)).reshape(shape)


def _positive(values: Any) -> bool:
    return bool(np.all(np.isfinite(values) & (values > 0)))
