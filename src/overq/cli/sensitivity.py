"""`overq sensitivity`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overq.cli.inputs import built_in_digits, format_of, given, integers, network_of, numbers
from overq.cli.progress import prepare_kernels, progress
from overq.errors import InputError
from overq.output import check_outputs, write
from overq.spec import Format
from overq.text import csv_text, visible

if TYPE_CHECKING:
    from overq.tune.assign import Assignment
    from overq.tune.sensitivity import Sensitivity

app = typer.Typer()


@app.command(epilog="Example: overq sensitivity --model nets.py:net --images val --budget 4.5 --save-recipe recipe.json")
def sensitivity(
    model: Annotated[str | None, typer.Option(help="As in `overq evaluate`. Default: the built-in digits network.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint to load.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images, or .npz; need not be labelled without --top1.")] = None,
    labels: Annotated[Path | None, typer.Option(help="For --top1: CSV with columns file and label, files relative to --images.")] = None,
    top1: Annotated[bool, typer.Option("--top1", help="Also count top-1, from the labels of --images.")] = False,
    samples: Annotated[int, typer.Option(min=1, help="How many images to calibrate and measure on, evenly spread.")] = 256,
    resize: Annotated[int, typer.Option(min=0, help="Short side in pixels; 0 keeps the size.")] = 256,
    crop: Annotated[int, typer.Option(min=0, help="Center crop in pixels; 0 crops nothing.")] = 224,
    mean: Annotated[str, typer.Option(help="Per-channel mean of pixels scaled to 0 … 1.")] = "0.485,0.456,0.406",
    std: Annotated[str, typer.Option(help="Per-channel standard deviation.")] = "0.229,0.224,0.225",
    bits: Annotated[str, typer.Option(help="Candidates: activation bits of OverQ.")] = "3,4",
    cascades: Annotated[str, typer.Option(help="Candidates: cascade factors, 1 to 16, each with all --bits.")] = "1,4",
    modes: Annotated[str, typer.Option(help="range, precision or both.")] = "both",
    policy: Annotated[str, typer.Option(help="first or largest.")] = "first",
    plain_bits: Annotated[str, typer.Option(help="Candidates: activation bits of plain quantization.")] = "8,6,5,4,3",
    recipe_file: Annotated[Path | None, typer.Option("--recipe", help="JSON of a recipe: what the layers get besides the candidates, and layers with a rule of their own.")] = None,
    weight_bits: Annotated[int | None, typer.Option(help="Weight bits, 4 to 8. Default: 8.")] = None,
    calibration: Annotated[str | None, typer.Option(help="As in `overq evaluate`. Default: format-mse.")] = None,
    loss: Annotated[str, typer.Option(help="mse: squared error of the output, a share of its power; kl: divergence of class scores.")] = "mse",
    edges: Annotated[bool, typer.Option("--edges", help="Try the first layer and the classifier too; else they keep 8 plain bits.")] = False,
    budget: Annotated[float | None, typer.Option(help="Find the best format of each layer within so many bits on average.")] = None,
    unit: Annotated[str, typer.Option(help="Of --budget: stored (bits of a value, states included) or multiplier (A bits × W bits).")] = "stored",
    batch_size: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 64,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, …")] = "cpu",
    seed: Annotated[int | None, typer.Option(min=0, help="Of the calibration sample. Default: 0.")] = None,
    save_recipe: Annotated[Path | None, typer.Option(help="With --budget: write the recipe found, as JSON; - is standard output.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything; - is standard output.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write one line per layer and candidate; - is standard output.")] = None,
) -> None:  # fmt: skip
    """What the network loses where one layer alone is quantized, and the best mixture of formats under a budget of bits.

    Labels are not needed: losses compare the network's output with the float network's. The assignment is exact for the sum of
    the layers' losses; run the recipe to see what the layers do together.
    """
    check_outputs(save_recipe, json_file, csv_file)
    if save_recipe is not None and budget is None:
        raise InputError("--save-recipe needs --budget")
    if labels is not None and not top1:
        raise InputError("--labels needs --top1")
    cascade_factors = integers("--cascades", cascades)
    candidates = [Format.plain(b) for b in integers("--plain-bits", plain_bits)]
    candidates += [format_of(b, c, modes, policy, False) for c in cascade_factors for b in integers("--bits", bits)]

    from overq.nn import Recipe
    from overq.nn.recipe import EDGE, read_recipe
    from overq.tune.assign import best_assignment, unit_of

    unit_of(unit)
    if recipe_file is not None:
        told = {"--weight-bits": weight_bits, "--calibration": calibration, "--edges": edges or None, "--seed": seed}
        if doubled := [name for name, value in told.items() if value is not None]:
            raise InputError(f"--recipe says what {doubled[0]} would: leave one out")
        recipe = read_recipe(recipe_file)
    else:
        edge, width = None if edges else EDGE, 8 if weight_bits is None else weight_bits
        recipe = Recipe(weight_bits=width, calibration=given(calibration, "format-mse"), first=edge, last=edge, seed=seed or 0)
    network, name = network_of(model, weights, images, device)
    if images is None:
        source = built_in_digits()[0 if top1 else 1]
    else:
        from overq.study.data import Preprocess, open_images

        preprocess = Preprocess(resize or None, crop or None, numbers("--mean", mean), numbers("--std", std))
        source = open_images(images, labels, preprocess, labelled=top1)
    import torch

    from overq.study.data import some_of
    from overq.tune.sensitivity import sensitivity as measure

    prepare_kernels(device)
    chosen = some_of(source, samples)
    known = torch.from_numpy(chosen.labels) if top1 else None
    seen = None
    if recipe.source != "images":
        from overq import datafree

        seen, _ = datafree.seen(network, recipe, tuple(chosen.load([0]).shape[1:]), batch_size=batch_size)
    with progress() as update:
        watched = chosen.watched(lambda done: update("float network", done, chosen.count))
        measured = measure(
            network, watched.batches(batch_size), candidates, labels=known, recipe=recipe, seen=seen, loss=loss, progress=update
        )
    found = None if budget is None else best_assignment(measured, budget, unit)
    if Path("-") not in (save_recipe, json_file, csv_file):
        _show(f"{name} on {source.name}", measured, found, unit)
    if save_recipe is not None and found is not None:
        write(save_recipe, json.dumps(found.recipe.to_json(), indent=1) + "\n")
    if json_file is not None:
        write(json_file, json.dumps(measured.to_json() | {"assignment": found and _json(found, unit)}, indent=1) + "\n")
    if csv_file is not None:
        rows = list(measured.records())
        write(csv_file, csv_text(list(rows[0]), rows))


def _show(title: str, measured: Sensitivity, found: Assignment | None, unit: str) -> None:
    print(visible(title))
    print(measured)
    if found is None:
        return
    print(f"best within the budget: {found.average:.3f} {unit} bits on average, sum of losses {found.loss:.3g}")
    for layer, trial in found.chosen:
        print(f"  {visible(layer):32s} {trial.label}")


def _json(found: Assignment, unit: str) -> dict[str, Any]:
    chosen = {layer: trial.label for layer, trial in found.chosen}
    return {"unit": unit, "average": found.average, "loss": found.loss, "chosen": chosen, "recipe": found.recipe.to_json()}
