"""Write what one layer of a real network takes and gives, for the RTL's testbench (`overq rtl --vectors FILE`).

    python scripts/layer_vectors.py out.json
    python scripts/layer_vectors.py out.json --network networks.py:resnet20 --images test.npz --layer layer1.0.conv1

Without --network: the built-in digits network. The integers are those of `overq.integer`: weights with the batch norm's sign,
multiplier, offset and shift per channel. The layer must be read by exactly one other layer of the same format, so that the output
stage makes that layer's t; the file is checked against what that layer really got in the integer network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import overq
from overq.errors import InputError, OverqError
from overq.integer import IntegerNetwork, integer_network
from overq.integer.windows import taps
from overq.rtl.vectors import LayerVectors, Tile
from overq.spec import ArrayConfig, Format
from overq.study import digits
from overq.study.cycles import recipe
from overq.study.data import Preprocess, open_images
from overq.study.models import load_model


def pixels(t: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """[N, C, H, W] -> [positions, C]."""
    return t.movedim(dim, -1).reshape(-1, t.shape[dim])


def layer_vectors(
    net: IntegerNetwork, name: str, x: torch.Tensor, rows: int, columns: int, vectors: int | None, source: str
) -> LayerVectors:
    """The first `columns` output channels and `vectors` output positions of a layer, tap by tap, in tiles of at most `rows` lanes."""
    seen: dict[str, torch.Tensor] = {}
    net.run(net.enter(x), lambda layer, t, total: seen.update({layer.name: t}))
    step = next((s for s in net.steps if s.kind == "layer" and s.target == name), None)
    if step is None:
        raise InputError(f"no layer {name!r}; there are {', '.join(seen)}")
    layer, entry, stream = net.layers[step.name], net.entries[step.name], net.streams[step.name]
    readers = [net.layers[s.name] for s in net.steps if s.kind == "layer" and net.streams[s.inputs[0]] is stream]
    plain = layer.dims == 2 and layer.groups == 1 and layer.padding_mode == "zeros" and layer.padding == layer.after
    if len(readers) != 1 or readers[0].unit != stream.unit or readers[0].format != layer.format or not plain:
        raise InputError(f"layer {name!r} does not feed exactly one layer of its own format: its outputs are no t of the output stage")
    padded = torch.nn.functional.pad(seen[name], (layer.padding[1], layer.padding[1], layer.padding[0], layer.padding[0]))
    kernel = layer.weights.shape[2], layer.weights.shape[3]
    used = layer.weights[:columns]
    if layer.order is not None:  # lane i carries channel order[i]
        padded, used = padded[:, layer.order], used[:, layer.order]
    tiles = []
    for index, tap in enumerate(taps(padded, kernel, layer.stride, layer.dilation, dim=2)):
        rows_of_tap = pixels(tap)[:vectors]
        weights = used[:, :, index // kernel[1], index % kernel[1]].T
        tiles += [Tile(rows_of_tap[:, k : k + rows].tolist(), weights[k : k + rows].tolist()) for k in range(0, tap.shape[1], rows)]
    config = ArrayConfig(layer.format.with_(lanes=None), layer.weight_bits, rows, len(used), max(layer.depth, rows))
    scales = [column[: len(used)].tolist() for column in (entry.multiplier, entry.offset, entry.shift)]
    made = LayerVectors(config, tiles, *scales, source)
    if made.next_t() != pixels(seen[readers[0].name])[:vectors, : len(used)].tolist():
        raise OverqError(f"layer {name!r}: the output stage does not give the t that the integer network gives {readers[0].name!r}")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", help="file.py:factory or package.module:factory")
    parser.add_argument("--images", type=Path, help=".npz or folder; also calibrated on")
    parser.add_argument("--layer", default="blocks.0.conv1")
    parser.add_argument("--image", type=int, default=0)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--cascade", type=int, default=4)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--columns", type=int, default=16)
    parser.add_argument("--vectors", type=int, help="output positions; default: all")
    options = parser.parse_args()
    fmt = Format(options.bits, options.cascade) if options.cascade else Format.plain(options.bits)
    if (options.network is None) != (options.images is None):
        raise InputError("--network and --images go together")
    model: nn.Module
    if options.network is None:
        model, calibration, x = digits.network(), digits.images("calibration")[0], digits.images("test")[0]
    else:
        images = open_images(options.images, None, Preprocess(None, None), labelled=False)
        model, x = load_model(options.network), images.load(range(min(images.count, max(64, options.image + 1))))
        calibration = x[:64]
    net = integer_network(overq.quantize(model, calibration, recipe(fmt, options.rows)))
    source = f"{options.network or 'digits network'}, {options.layer}, image {options.image}, A{options.bits} cascade {options.cascade}"
    one = x[options.image : options.image + 1]
    layer = layer_vectors(net, options.layer, one, options.rows, options.columns, options.vectors, source)
    options.out.write_text(layer.to_json(), encoding="utf-8")
    print(f"{options.out}: {layer.source}: {len(layer.tiles)} tiles, {layer.vectors} vectors, {layer.config.columns} columns")


if __name__ == "__main__":
    main()
