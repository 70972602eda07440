"""An ONNX file without its weights: large tensors become external data of the file itself, which is mapped into memory, not read.

Protobuf's messages are walked as they lie in the file, three levels deep: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

GRAPH, INITIALIZER, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 7, 5, 9, 13, 14  # numbers of fields in onnx.proto
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LARGE = 1 << 14  # bytes of a tensor that stays in the file


def without_weights(path: Path) -> bytes:
    """The ModelProto. ValueError for what does not lie there as protobuf's messages do."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return b""
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return b"".join(_model(data, path.name))


def _model(data: mmap.mmap, name: str) -> Iterator[bytes]:
    for number, kind, start, value, end in _fields(data, 0, len(data)):
        if (number, kind) == (GRAPH, BYTES):
            graph = b"".join(_graph(data, value, end, name))
            yield _key(GRAPH, BYTES) + _varint(len(graph)) + graph
        else:
            yield data[start:end]


def _graph(data: mmap.mmap, start: int, end: int, name: str) -> Iterator[bytes]:
    for number, kind, begin, value, last in _fields(data, start, end):
        if (number, kind) == (INITIALIZER, BYTES) and last - value >= LARGE:
            tensor = b"".join(_tensor(data, value, last, name))
            yield _key(INITIALIZER, BYTES) + _varint(len(tensor)) + tensor
        else:
            yield data[begin:last]


def _tensor(data: mmap.mmap, start: int, end: int, name: str) -> Iterator[bytes]:
    for number, kind, begin, value, last in _fields(data, start, end):
        if (number, kind) == (RAW_DATA, BYTES) and last - value >= LARGE:
            for key, text in (("location", name), ("offset", str(value)), ("length", str(last - value))):
                entry = _text(1, key) + _text(2, text)
                yield _key(EXTERNAL_DATA, BYTES) + _varint(len(entry)) + entry
            yield _key(DATA_LOCATION, VARINT) + _varint(1)
        else:
            yield data[begin:last]


def _fields(data: mmap.mmap, place: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(number, wire type, where it begins, where its value does, where it ends)."""
    while place < end:
        start = place
        key, place = _read(data, place, end)
        kind, value = key & 7, place
        if kind == VARINT:
            _, place = _read(data, place, end)
        elif kind == BYTES:
            length, value = _read(data, place, end)
            place = value + length
        elif kind in (FIXED32, FIXED64):
            place += 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind} at byte {start:,}")
        if place > end:
            raise ValueError(f"it is truncated: a field at byte {start:,} ends at {place:,}, behind {end:,}")
        yield key >> 3, kind, start, value, place


def _read(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    """(a varint, where the next byte is)."""
    found = shift = 0
    while place < end and shift < 64:
        byte = data[place]
        found, place, shift = found | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return found, place
    raise ValueError(f"it is truncated: a number at byte {place:,} has no end")


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _text(number: int, text: str) -> bytes:
    coded = text.encode()
    return _key(number, BYTES) + _varint(len(coded)) + coded
