"""save_packed: a quantized network as a packed file, whose layout is in `packed`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from overq.errors import FormatError, InputError
from overq.exchange.fields import check_fields
from overq.exchange.packed import (
    HEADER,
    HEADER_BYTES,
    KINDS,
    LAYER,
    LAYER_TENSORS,
    MAGIC,
    PADDINGS,
    PARTS,
    STAGE,
    VERSION,
    pack_bits,
    width_of,
)  # fmt: skip
from overq.integer import integer_network
from overq.nn import files, layers
from overq.output import staged
from overq.spec.format import POLICIES


def save_packed(model: nn.Module, path: str | Path, *, firmware: bool = False) -> None:
    """Write a quantized model to one packed file, whole or not at all.

    firmware  leave out the tensors that only Python needs: the output stages hold what batch norms do. `load_packed` refuses such a file.

    Raises InputError and FormatError, with the layer's name, for what the file cannot hold: methods without a number format of ours,
    steps that vectors give themselves, layers that convolve in a way of their own; and for firmware, networks without output stages.
    """
    path = Path(path)
    manifest, tensors = files.contents(model, path)
    modules = dict(model.named_modules())
    names = [report["name"] for report in manifest["summary"]["layers"]]
    stages, manifest["integer"] = _stages(model)
    if firmware and not stages:
        raise InputError(f"a file for firmware needs output stages, but this network does not run in integers: {manifest['integer']}")
    data, records = bytearray(), b""
    for name in names:
        record, block = _record(name, modules[name], tensors, stages.get(name), HEADER_BYTES + len(names) * LAYER.size + len(data))
        records, data = records + record, data + block
    own = {f"{name}.{part}" if name else part for name in names for part in LAYER_TENSORS}
    rest = {name: tensor for name, tensor in tensors.items() if name not in own and not firmware}
    manifest["rest"] = None if firmware else [[name, str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in rest.items()]
    manifest["widths"] = {name: str(tensors[f"{name}.weight_integers" if name else "weight_integers"].dtype)[6:] for name in names}
    text = zlib.compress(json.dumps(manifest, separators=(",", ":")).encode(), 9)
    place = HEADER_BYTES + len(records) + len(data)
    body = records + bytes(data) + text + (b"" if firmware else _packed_rest(rest.values()))
    header = HEADER.pack(MAGIC, VERSION, len(names), HEADER_BYTES + len(body), place, len(text), zlib.crc32(body))
    with staged(path) as temporary:
        temporary.write_bytes(header.ljust(HEADER_BYTES, b"\0") + body)


def _packed_rest(tensors: Iterable[Tensor]) -> bytes:
    planes: dict[int, list[np.ndarray]] = {}
    for tensor in tensors:
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.zeros(0, np.uint8)
        planes.setdefault(tensor.itemsize, []).append(raw.reshape(-1, tensor.itemsize))
    return zlib.compress(b"".join(np.concatenate(planes[size]).T.tobytes() for size in sorted(planes)), 9)


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


def _record(name: str, layer: Any, tensors: dict[str, Tensor], stage: tuple[np.ndarray, float] | None, place: int) -> tuple[bytes, bytes]:
    """(its record, its block, which begins at `place`)."""
    fmt = layer.format
    if fmt is None or not isinstance(layer.step, float):
        raise FormatError(f"layer {name!r}: a packed file holds formats of OverQ and plain ones, not {layer.fitted.describe()}")
    check_fields(fmt, "has no place in a packed file", f"layer {name!r}: ")
    refused = {"a rotated input": layer.rotation, "a shifted input": layer.input_shift, "a dead zone": layer.dead_zone}
    turned = next((what for what, part in refused.items() if part is not None), "")
    if (base := layers.kind(layer)) not in KINDS or turned or "_conv_forward" in vars(layer):
        what = turned or f"a {type(layer).__name__} as this one"
        raise InputError(f"layer {name!r}: a packed file cannot say {what}; it holds {', '.join(kind.__name__ for kind in KINDS)}")
    prefix = f"{name}." if name else ""
    weights = tensors[prefix + "weight_integers"].numpy()
    bits = max(layer.weight_bits, width_of(weights))
    window, mode = _window(layer)
    shape = (*weights.shape[:2], *(1,) * (4 - weights.ndim), *weights.shape[2:]) if weights.ndim < 4 else weights.shape
    called, offset_bits, parts = name.encode(), 0, 0
    block = called + pack_bits(weights, bits) + _numbers(tensors[prefix + "weight_scale"], "<f4")
    for part, kind in (("bias", "<f4"), ("lane_order", "<u4"), ("input_scale", "<f4")):
        if (value := tensors.get(prefix + part)) is not None:
            parts, block = parts | PARTS[part], block + _numbers(value, kind)
    if stage is not None:
        table, offset_bits = stage[0], width_of(stage[0]["offset"])
        parts |= PARTS["stage"]
        block += table["multiplier"].tobytes() + table["shift"].tobytes() + pack_bits(table["offset"], offset_bits)
    small = (
        *(KINDS.index(base), bits, fmt.bits, fmt.cascade, fmt.range_bits, fmt.fraction_bits, POLICIES.index(fmt.policy)),
        *(int(fmt.signed), mode, fmt.evict, parts, offset_bits),
    )
    middle = (*window, *shape[2:], len(called))
    if max(middle) >= 1 << 16:
        raise InputError(f"layer {name!r}: a packed file holds strides, pads and kernels up to 65,535")
    large = (fmt.lanes or 0, getattr(layer, "groups", 1), *shape[:2])
    return LAYER.pack(*small, *middle, *large, layer.step, 0.0 if stage is None else stage[1], place), block


def _numbers(tensor: Tensor, kind: str) -> bytes:
    return tensor.numpy().astype(kind).tobytes()


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
