"""`overq export`, `save`, `inspect` and `vectors`: quantized networks for other tools."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files as package_files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from overq.cli.inputs import built_in_digits, format_of, given, network_of, numbers
from overq.cli.progress import prepare_kernels, progress
from overq.errors import InputError
from overq.output import check_outputs, write

app = typer.Typer()
CHECKED = 32  # images
C_FILES = ("overq.h", "overq.c")

# What the commands share: a network, and what it is quantized by. One option a line.
Model = Annotated[
    str | None,
    typer.Argument(
        help="network.onnx, package.module:factory, file.py:factory, torchvision:name or timm:name. Default: the built-in digits network."
    ),
]
Weights = Annotated[Path | None, typer.Option(help="Checkpoint to load: .safetensors, or a torch file of plain tensors.")]
Saved = Annotated[Path | None, typer.Option("--from", help="File of `overq save`: its quantization of MODEL, in place of calibrating.")]
Calibration = Annotated[Path | None, typer.Option(help="Unlabelled images to calibrate on: a folder, or .npz. Needed with MODEL.")]
Samples = Annotated[int, typer.Option(min=1, help="How many of them.")]
Resize = Annotated[int | None, typer.Option(min=0, help="Short side in pixels; 0 keeps the size.")]
Crop = Annotated[int | None, typer.Option(min=0, help="Center crop in pixels; 0 crops nothing.")]
Mean = Annotated[str, typer.Option(help="Per-channel mean of pixels scaled to 0 … 1.")]
Std = Annotated[str, typer.Option(help="Per-channel standard deviation.")]
RecipeFile = Annotated[Path | None, typer.Option(help="JSON of a recipe, in place of the options below.")]
Bits = Annotated[int | None, typer.Option(help="Activation bits. Default: 4.")]
Cascade = Annotated[int | None, typer.Option(help="Cascade factor; 0 is plain quantization. Default: 4.")]
Policy = Annotated[str | None, typer.Option(help="Which outlier a zero serves: first (default) or largest.")]
WeightBits = Annotated[int | None, typer.Option(help="Weight bits, 4 to 8. Default: 8.")]
Correct = Annotated[bool, typer.Option("--bias-correction", help="Give every layer's output the float layer's mean and spread.")]


@app.command(epilog="Example: overq export network.onnx --calibration-images photos --bits 4 --to quantized.onnx")
def export(
    to: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    model: Model = None,
    form: Annotated[str, typer.Option(help="exact: what `evaluate` computes, in standard operators; qdq: plain layers as QuantizeLinear and DequantizeLinear, 4-bit weights packed; integer: in integer operators.")] = "exact",
    weights: Weights = None, saved: Saved = None, calibration_images: Calibration = None, samples: Samples = 256,
    resize: Resize = 256, crop: Crop = 224, mean: Mean = "0.485,0.456,0.406", std: Std = "0.229,0.224,0.225",
    recipe: RecipeFile = None, bits: Bits = None, cascade: Cascade = None, policy: Policy = None, weight_bits: WeightBits = None,
    bias_correction: Correct = False,
    check: Annotated[bool, typer.Option(help="Run an exact file in onnxruntime, where it is installed, beside the simulation in float64.")] = True,
) -> None:  # fmt: skip
    """Quantize a network and write it as ONNX, for onnxruntime and whatever else reads ONNX."""
    check_outputs(to)
    from overq.exchange import to_onnx
    from overq.exchange.layers_out import FORMS

    if form not in FORMS:
        raise InputError(f"--form {form}: one of {', '.join(FORMS)}")
    options = (bits, cascade, policy, weight_bits, bias_correction)
    quantized, shown = _quantized(model, weights, saved, calibration_images, samples, (resize, crop, mean, std), recipe, options)
    to_onnx(quantized, to, None if shown is None else shown[:1], form=form)
    print(f"wrote {to}: {to.stat().st_size:,} bytes, {form}")
    if check and form == "exact" and shown is not None and find_spec("onnxruntime"):
        from overq.exchange.beside import beside

        print(f"onnxruntime beside the simulation in float64: {beside(to, quantized, shown[:CHECKED])}")


@app.command(epilog="Example: overq save network.onnx --calibration-images photos --weight-bits 4 --packed --to network.overq")
def save(
    to: Annotated[Path, typer.Option(help="The file to write.")],
    model: Model = None,
    packed: Annotated[bool, typer.Option("--packed", help="Weights at their bits, for firmware; `overq inspect` and the C reader read it.")] = False,
    firmware: Annotated[bool, typer.Option("--firmware", help="With --packed: without batch norms and whatever else only Python needs; output stages hold them.")] = False,
    c_reader: Annotated[Path | None, typer.Option(help="Folder for overq.h and overq.c, which read packed files.")] = None,
    weights: Weights = None, saved: Saved = None, calibration_images: Calibration = None, samples: Samples = 256,
    resize: Resize = 256, crop: Crop = 224, mean: Mean = "0.485,0.456,0.406", std: Std = "0.229,0.224,0.225",
    recipe: RecipeFile = None, bits: Bits = None, cascade: Cascade = None, policy: Policy = None, weight_bits: WeightBits = None,
    bias_correction: Correct = False,
) -> None:  # fmt: skip
    """Quantize a network and save it: integers, scales, formats, and how to read them."""
    if firmware and not packed:
        raise InputError("--firmware is about packed files: give --packed, too")
    beside = {c_reader / name: name for name in C_FILES} if c_reader else {}
    check_outputs(to, *beside)
    options = (bits, cascade, policy, weight_bits, bias_correction)
    quantized, _ = _quantized(model, weights, saved, calibration_images, samples, (resize, crop, mean, std), recipe, options)
    if packed:
        from overq.exchange.packing import save_packed

        save_packed(quantized, to, firmware=firmware)
    else:
        from overq.nn import save as save_model

        save_model(quantized, to)
    for path, name in beside.items():
        write(path, package_files("overq.exchange").joinpath("c", name).read_bytes())
    print(f"wrote {to}: {to.stat().st_size:,} bytes")


@app.command(epilog="Example: overq inspect network.overq")
def inspect(
    file: Annotated[Path, typer.Argument(help="File of `overq save` or overq.save.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything; - is standard output.")] = None,
) -> None:
    """What a saved network holds, layer by layer, after checking all of it."""
    from rich.table import Table

    from overq.exchange.inspect import inspect as look
    from overq.text import add_row, console

    check_outputs(json_file)
    found = look(file)
    if json_file is not None:
        sums = {"weights": found.weights, "widths": found.widths}
        write(json_file, json.dumps(asdict(found) | {"path": str(found.path)} | sums, indent=1) + "\n")
        if json_file == Path("-"):
            return
    table = Table(title=f"{found.path.name}: {found.kind} file, layout {found.version}, {found.bytes:,} bytes")
    for column in ("layer", "kind", "weights", "input", "W", "bytes", "output stage"):
        table.add_column(column)
    for row in found.rows:
        shape = " × ".join(map(str, row.shape))
        add_row(table, row.name, row.kind, shape, row.input, str(row.weight_bits), f"{row.bytes:,}", row.stage)
    screen = console()
    screen.print(table)
    each = f", {found.bytes / found.weights:.3f} bytes of file a weight" if found.weights else ""
    screen.print(f"{found.weights:,} weights in {len(found.rows)} layers, {found.other:,} other values{each}")
    for what, count in found.widths.items():
        screen.print(f"{what}: {100 * count / found.weights:.1f} % of the weights")
    for note in found.notes:
        screen.print(f"note: {note}")


@app.command(epilog="Example: overq vectors --layer blocks.0.conv2 --to vectors")
def vectors(
    layer: Annotated[str, typer.Option(help="Dotted name of a quantized layer, as `overq inspect` shows it.")],
    to: Annotated[Path, typer.Option(help="Folder for input, t, digits, states, weights and sums: .npy, .hex for $readmemh, vectors.json.")],
    model: Model = None,
    images: Annotated[int, typer.Option(min=1, help="How many of the calibration images to run.")] = 1,
    weights: Weights = None, saved: Saved = None, calibration_images: Calibration = None, samples: Samples = 256,
    resize: Resize = 256, crop: Crop = 224, mean: Mean = "0.485,0.456,0.406", std: Std = "0.229,0.224,0.225",
    recipe: RecipeFile = None, bits: Bits = None, cascade: Cascade = None, policy: Policy = None, weight_bits: WeightBits = None,
    bias_correction: Correct = False,
) -> None:  # fmt: skip
    """Write one layer's integers for testbenches: what goes in, how it lies on the lanes, what comes out."""
    from overq.exchange.vectors import layer_vectors, write_vectors

    options = (bits, cascade, policy, weight_bits, bias_correction)
    quantized, shown = _quantized(model, weights, saved, calibration_images, samples, (resize, crop, mean, std), recipe, options)
    if shown is None:
        raise InputError("vectors need images to run: give --calibration-images, too")
    written = write_vectors(to, *layer_vectors(quantized, layer, shown[:images]))
    print(f"wrote {len(written)} files to {to}: {', '.join(sorted({path.stem for path in written}))}")


def _quantized(
    model: str | None, weights: Path | None, saved: Path | None, calibration: Path | None, samples: int,
    preprocess: tuple[int | None, int | None, str, str], recipe: Path | None, options: tuple[Any, ...],
) -> tuple[Any, Any]:  # fmt: skip
    """(the quantized network, images that it was or could be calibrated on)."""
    if model is not None and calibration is None and saved is None:
        raise InputError("a network of your own needs --calibration-images, or --from a file of `overq save`")
    if model is None and calibration is not None:
        raise InputError("--calibration-images are for a network of your own: name it first")
    told = any(option is not None and option is not False for option in options)
    if told and (saved is not None or recipe is not None):
        raise InputError(f"{'--from' if saved else '--recipe'} says how the network is quantized: leave out the format")
    if saved is not None and recipe is not None:
        raise InputError("--from says how the network is quantized: leave out --recipe")
    network, _ = network_of(model, weights, None if model is None else calibration or Path(), "cpu")
    images = _images(model, calibration, samples, preprocess)
    if saved is not None:
        return _loaded(saved, network), images
    import overq

    prepare_kernels("cpu")
    with progress() as update:
        return overq.quantize(network, images, _recipe(recipe, options), progress=update), images


def _images(model: str | None, folder: Path | None, samples: int, preprocess: tuple[int | None, int | None, str, str]) -> Any:
    """One tensor, of the built-in digits where that is the network; None where there is no folder."""
    import torch

    from overq.study.data import Preprocess, open_images, some_of

    resize, crop, mean, std = preprocess
    if folder is not None:
        how = Preprocess(resize or None, crop or None, numbers("--mean", mean), numbers("--std", std))
        found = open_images(folder, None, how, labelled=False)
    elif model is None:
        found = built_in_digits()[1]
    else:
        return None
    chosen = some_of(found, samples)
    with progress() as update:
        return torch.cat(list(chosen.watched(lambda done: update("images", done, chosen.count)).batches(64)))


def _loaded(path: Path, network: Any) -> Any:
    from overq.exchange.packed import is_packed, load_packed
    from overq.nn import load

    return load_packed(path, network) if is_packed(path) else load(path, network)


def _recipe(path: Path | None, options: tuple[Any, ...]) -> Any:
    from overq.nn.recipe import Recipe, read_recipe

    if path is not None:
        return read_recipe(path)
    bits, cascade, policy, weight_bits, correct = options
    fmt = format_of(given(bits, 4), given(cascade, 4), "both", given(policy, "first"), False)
    return Recipe(fmt, given(weight_bits, 8), bias_correction=correct)
