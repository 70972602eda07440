"""The packed file of a quantized network: weights at their bits, for firmware. `packing` writes it, `c/overq.c` reads it, too.

Little endian throughout.

    header, 64 bytes
        0   8 bytes  "OVERQ1\\r\\n"
        8   u32      version of this layout
        12  u32      number of layers
        16  u64      bytes of the file
        24  u64, u32 where the manifest is, and how many bytes it has (JSON under zlib, for people and for Python)
        36  u32      CRC-32 of everything behind the header
        40           zeros
    layers, 76 bytes each, in the order of the network: `LAYER`
    data: of each layer one block, where its record points; then, for Python only, all other tensors of the network

A layer's block, one part behind the other, without gaps: name; weights; scale f32 [O]; then, where its record says so, bias f32 [O],
lane order u32 [C], divisors of the input f32 [C], and the output stage: multipliers u16 [O], shifts u8 [O], offsets [O] of `offset_bits`.

Weights [O, C, kh, kw] (C channels of a group; Linear: kh = kw = 1) lie in their order, `weight_bits` each, two's complement, least
significant bit first: bit k of the stream is bit k % 8 of byte k // 8; so do offsets. A weight is worth its integer · scale[o].

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

from overq.errors import ModelFileError, OverqError
from overq.nn import files
from overq.spec import Format
from overq.spec.format import POLICIES

MAGIC = b"OVERQ1\r\n"
VERSION = 2
HEADER = struct.Struct("<8sIIQQII")
HEADER_BYTES = 64
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)
PADDINGS = ("zeros", "reflect", "replicate", "circular")
# kind, weight_bits, bits, cascade, range_bits, fraction_bits, policy, signed, padding mode, evict, `PARTS` that there are, offset_bits;
# stride 2, dilation 2, pads top left bottom right, kh, kw, bytes of the name; 2 spare; lanes (0: the whole vector), groups, O, C; step;
# unit of the output stage; place of its block
LAYER = struct.Struct("<12B11H2x4IddQ")
PARTS = {"bias": 1, "lane_order": 2, "input_scale": 4, "stage": 8}
STAGE = np.dtype([("offset", "<i8"), ("multiplier", "<u2"), ("shift", "u1")])
BIGGEST = 1 << 31
LAYER_TENSORS = ("weight_integers", "weight_scale", "bias", "lane_order", "input_scale")
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
    """tensors: the network's state_dict as `overq.save` would store it; manifest: as there; restorable: whether no tensor is left out."""

    path: Path
    bytes: int
    layers: tuple[PackedLayer, ...]
    tensors: dict[str, Tensor]
    manifest: dict[str, Any]
    restorable: bool

    @property
    def weights(self) -> int:
        return sum(layer.weights.size for layer in self.layers)


def pack_bits(values: np.ndarray, bits: int) -> bytes:
    """Integers as a stream of `bits` bits each, two's complement, least significant first."""
    flat = values.reshape(-1).astype(np.int64)
    spread = (flat[:, None] >> np.arange(bits)) & 1
    return np.packbits(spread.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def width_of(values: np.ndarray) -> int:
    """Bits of two's complement that hold every one of these integers."""
    return 1 + int(max(int(values.max(initial=0)), -int(values.min(initial=0)) - 1)).bit_length()


def unpack_bits(data: bytes, count: int, bits: int) -> np.ndarray:
    """The inverse: int64 [count]."""
    stream = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little", count=count * bits).reshape(count, bits)
    values = np.zeros(count, np.int64)
    for bit in range(bits):
        values |= stream[:, bit].astype(np.int64) << bit
    return values - ((values >> (bits - 1)) << bits)


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
    if not found.restorable:
        raise ModelFileError(
            f"{found.path}: a file for firmware: it has no batch norms and whatever else Python needs to rebuild a network"
        )
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
        manifest = json.loads(unzip_all(self.section(place, length)))
        tensors: dict[str, Tensor] = {}
        found = []
        for i in range(count):
            layer = self.layer(HEADER_BYTES + i * LAYER.size)
            found.append(layer)
            tensors |= self.tensors(layer, manifest)
        rest = manifest.pop("rest")
        if rest is not None:
            tensors |= self.rest(rest, unzip_all(self.section(place + length, size - place - length)))
        manifest.pop("widths")
        said = [report["name"] for report in manifest["summary"]["layers"]]
        if said != [layer.name for layer in found]:
            raise self.damaged("manifest and table name other layers")
        return PackedFile(self.path, size, tuple(found), tensors, manifest, rest is not None)

    def section(self, place: int, length: int) -> bytes:
        if not (place >= HEADER_BYTES and place + length <= len(self.content)):
            raise self.damaged(f"a section of {length:,} bytes at {place:,} is not in it")
        return self.content[place : place + length]

    def layer(self, at: int) -> PackedLayer:
        fields = LAYER.unpack_from(self.content, at)
        kind, bits, digit_bits, cascade, range_bits, fraction_bits, policy, signed, mode, evict, parts, offset_bits = fields[:12]
        window, (tall, wide, length), (lanes, groups, outputs, inputs), (step, unit, place) = (
            fields[12:20], fields[20:23], fields[23:27], fields[27:],
        )  # fmt: skip
        name = self.section(place, length).decode()
        count, total = outputs * inputs * tall * wide, inputs * groups
        fine = groups > 0 and total < BIGGEST and outputs % groups == 0 and 1 <= bits <= WIDEST and offset_bits <= 64
        if not (0 < count < BIGGEST and fine and signed < 2 and parts < 16):
            raise self.damaged(f"layer {name!r}: {count:,} weights of {bits} bits in {groups} groups")
        fmt = Format(digit_bits, cascade, range_bits, fraction_bits, POLICIES[policy], bool(signed), lanes or None, evict)
        place += length

        def take(size: int) -> bytes:
            nonlocal place
            place += size
            return self.section(place - size, size)

        def array(kind: str, numbers: int, part: str = "") -> np.ndarray | None:
            there = not part or parts & PARTS[part]
            return np.frombuffer(take(np.dtype(kind).itemsize * numbers), kind).copy() if there else None

        weights = unpack_bits(take(-(-count * bits // 8)), count, bits).astype(np.int32).reshape(outputs, inputs, tall, wide)
        scale, bias = array("<f4", outputs), array("<f4", outputs, "bias")
        order, divisors = array("<u4", inputs, "lane_order"), array("<f4", inputs, "input_scale")
        if not (scale is not None and _positive(scale) and _positive(step) and (divisors is None or _positive(divisors))):
            raise self.damaged(f"layer {name!r}: a scale or step is not positive and finite")
        if order is not None and not np.array_equal(np.sort(order), np.arange(inputs)):
            raise self.damaged(f"layer {name!r}: its lane order is no permutation")
        stage = None
        if parts & PARTS["stage"]:
            if not _positive(unit) or not offset_bits:
                raise self.damaged(f"layer {name!r}: the unit of its output stage is not positive and finite, or its offsets have no bits")
            table = np.zeros(outputs, STAGE)
            table["multiplier"], table["shift"] = array("<u2", outputs), array("u1", outputs)
            table["offset"] = unpack_bits(take(-(-outputs * offset_bits // 8)), outputs, offset_bits)
            stage = table, unit
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

    def rest(self, said: list[Any], content: bytes) -> dict[str, Tensor]:
        """All other tensors."""
        if not all(isinstance(name, str) for name, _, _ in said):
            raise self.damaged("a tensor without a name")
        kinds = {name: getattr(torch, kind) for name, kind, _ in said}
        counts = {name: int(np.prod(shape, dtype=object)) for name, _, shape in said}
        if not all(isinstance(kind, torch.dtype) for kind in kinds.values()) or not all(0 <= count < BIGGEST for count in counts.values()):
            raise self.damaged("a tensor of no known type or size")
        found, start = {}, 0
        for size in sorted({kind.itemsize for kind in kinds.values()}):
            names = [name for name in kinds if kinds[name].itemsize == size]
            total = sum(counts[name] for name in names)
            raw = np.frombuffer(content[start : start + total * size], np.uint8).reshape(size, total).T.copy()
            start, at = start + total * size, 0
            for name in names:
                part, at = raw[at : at + counts[name]], at + counts[name]
                found[name] = torch.from_numpy(part.reshape(-1)).view(kinds[name]) if counts[name] else torch.empty(0, dtype=kinds[name])
        if start != len(content):
            raise self.damaged("its tensors are not what the manifest says")
        return {name: found[name].reshape(shape) for name, _, shape in said}


def unzip_all(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, BIGGEST)


def _positive(values: Any) -> bool:
    return bool(np.all(np.isfinite(values) & (values > 0)))
