"""One layer's inputs, digits, states, weights and sums in files that testbenches read: .npy, hex for $readmemh, JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from overq.errors import InputError
from overq.integer import integer_layer
from overq.nn.convert import summary
from overq.nn.quantized import Quantized
from overq.output import staged

SCHEMA = 1
STATE_BITS = 2  # as encoded: 0 OWN, 1 RANGE, 2 MOVED, 3 PRECISION


def layer_vectors(model: nn.Module, name: str, x: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, facts) of the quantized layer `name` where the model runs on x, the first time that it runs the layer.

    arrays  input (float32, in the layer's own layout), t, digits, states (channels last: [N, H, W, groups, K], Linear [M, 1, 1, 1, K]),
            weights [O, K, kh, kw], sums (the layer's output layout, f fraction bits)
    facts   layer, format, step, bits of every array, what a sum is worth for each output

    Raises InputError for a layer that is not quantized or not run, and for methods that have no integers.
    """
    reports = {report.name: report for report in summary(model).layers}
    module = dict(model.named_modules()).get(name)
    if name not in reports or not isinstance(module, Quantized):
        some = list(reports)
        raise InputError(f"no quantized layer is named {name!r}; there are {', '.join(some[:6])}{', …' if len(some) > 6 else ''}")
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda layer, args: seen.append(args[0].detach().cpu()))
    try:
        with torch.no_grad():
            model(x)
    finally:
        handle.remove()
    if not seen:
        raise InputError(f"the model did not run its layer {name!r} on this input")
    layer = integer_layer(name, module, reports[name].weight_bits)
    t = layer.fixed(seen[0])
    digits, states = layer.lanes(t)
    arrays = {
        "input": seen[0].float().numpy(), "t": t.numpy().astype(np.int32), "digits": digits.numpy(), "states": states.numpy(),
        "weights": layer.weights.numpy().astype(np.int16), "sums": layer.accumulate(t).numpy(),
    }  # fmt: skip
    widest = max(abs(layer.format.t_min), layer.format.t_max)
    bits = {"t": int(widest).bit_length() + 1, "digits": layer.format.bits, "states": STATE_BITS, "weights": layer.weight_bits}
    facts = {
        "schema": SCHEMA, "layer": name, "format": layer.format.to_json(), "step": layer.step,
        "bits": bits | {"sums": layer.sum_bits}, "lane_order": None if layer.order is None else layer.order.tolist(), "scale": layer.scale,
        "shapes": {part: list(array.shape) for part, array in arrays.items()},
    }  # fmt: skip
    return arrays, facts


def write_vectors(folder: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> list[Path]:
    """NAME.npy of every array, NAME.hex of the integers (one number a line, two's complement of `bits`), vectors.json with facts and all
    integers. The folder is made where it is missing; returns what was written."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, bytes] = {}
    for name, array in arrays.items():
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        contents[f"{name}.npy"] = file.getvalue()
        if name in facts["bits"]:
            contents[f"{name}.hex"] = hex_lines(array, facts["bits"][name]).encode()
    whole = facts | {name: array.tolist() for name, array in arrays.items() if name in facts["bits"]}
    contents["vectors.json"] = json.dumps(whole).encode()
    for name, content in contents.items():
        with staged(folder / name) as temporary:
            temporary.write_bytes(content)
    return [folder / name for name in contents]


def hex_lines(array: np.ndarray, bits: int) -> str:
    """For $readmemh: the last dim fastest, as many digits a line as `bits` need."""
    width, mask = -(-bits // 4), (1 << bits) - 1
    return "".join(f"{int(value) & mask:0{width}x}\n" for value in array.reshape(-1))
