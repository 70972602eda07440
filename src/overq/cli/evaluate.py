"""`overq evaluate`: parse, call, print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from overq.cli.inputs import built_in_digits, given, integers, network_of, numbers
from overq.cli.progress import prepare_kernels, progress
from overq.cli.report import Report, check_report, this_command, write_report
from overq.errors import InputError
from overq.output import check_outputs, write

app = typer.Typer()


@app.command(epilog="Example: overq evaluate --model torchvision:resnet50 --images imagenet/val --limit 2000 --json result.json")
def evaluate(
    model: Annotated[str | None, typer.Option(help="package.module:factory, file.py:factory, torchvision:name, timm:name or hf:directory. Default: the built-in digits network.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint to load: .safetensors, or a torch file of plain tensors.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder with one subfolder per class, or a flat folder with --labels, or .npz (images, labels).")] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV with columns file and label, files relative to --images.")] = None,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="--images is any folder of images without labels: count how often a setting answers as the float network does.")] = False,
    calibration_images: Annotated[Path | None, typer.Option(help="Unlabelled images to calibrate on. Default: --samples of --images, which are then not scored.")] = None,
    calibration_source: Annotated[str | None, typer.Option(help="images (default); or no data: statistics (batch norm) or distilled (synthetic images), which score all of --images.")] = None,
    task: Annotated[str, typer.Option(help="images: top-1; text: perplexity of a language model.")] = "images",
    text: Annotated[Path | None, typer.Option(help="With --task text: a text file to score, in windows.")] = None,
    calibration_text: Annotated[Path | None, typer.Option(help="Text to calibrate on. Default: the first --samples windows of --text, which are not scored.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="hf:DIRECTORY, or file.py:function that gives an encoder. Default: the model's own, of hf:DIRECTORY.")] = None,
    window: Annotated[int, typer.Option(min=2, help="Tokens of a window.")] = 512,
    samples: Annotated[int | None, typer.Option(min=1, help="How many images or windows to calibrate on. Default: 256; 2 windows.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only that many images, evenly spread; or windows, the first (default: 4).")] = None,
    resize: Annotated[int | None, typer.Option(min=0, help="Short side in pixels; 0 keeps the size.")] = 256,
    crop: Annotated[int | None, typer.Option(min=0, help="Center crop in pixels; 0 crops nothing.")] = 224,
    mean: Annotated[str, typer.Option(help="Per-channel mean of pixels scaled to 0 … 1.")] = "0.485,0.456,0.406",
    std: Annotated[str, typer.Option(help="Per-channel standard deviation.")] = "0.229,0.224,0.225",
    recipe: Annotated[list[Path] | None, typer.Option(help="JSON of a recipe, any method: run it in place of the formats below. May be given several times.")] = None,
    bits: Annotated[str | None, typer.Option(help="Activation bits for OverQ, comma-separated. Default: 4,3.")] = None,
    plain_bits: Annotated[str | None, typer.Option(help="Activation bits for plain quantization. Default: 8,6,5,4,3.")] = None,
    cascades: Annotated[str | None, typer.Option(help="Cascade factors. Default: 1,2,4,6.")] = None,
    policy: Annotated[str | None, typer.Option(help="Which outlier a zero serves: first (default) or largest.")] = None,
    weight_bits: Annotated[int | None, typer.Option(help="Weight bits, 4 to 8. Default: 8.")] = None,
    calibration: Annotated[str | None, typer.Option(help="max, moving-max, percentile[:99.9], std[:4], mse, kl, aciq-gauss, aciq-laplace, format-mse (default), least-error or output-mse.")] = None,
    bias_correction: Annotated[bool, typer.Option("--bias-correction", help="Give every layer's output the float layer's mean and spread; weights of fewer than 8 bits need it.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a batch. Default: 64; 448 of the built-in digits, which are small.")] = None,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, …")] = "cpu",
    seed: Annotated[int | None, typer.Option(min=0, help="Of the calibration sample. Default: 0.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything, per layer too; - is standard output.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write one line per setting; - is standard output.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Save the plot: .png, .svg or .pdf.")] = None,
    report: Report = None,
) -> None:  # fmt: skip
    """Top-1 of a network in float, plain and OverQ, with measured and theoretical coverage.

    Without arguments: handwritten digits and the small residual network that comes with overq.
    """
    check_outputs(json_file, csv_file, plot, report)
    if task not in ("images", "text"):
        raise InputError(f"--task is images or text, not {task!r}")
    if task == "text":
        others = {
            "--images": images, "--labels": labels, "--unlabelled": unlabelled or None, "--calibration-images": calibration_images, "--cascades": cascades, "--policy": policy,
            "--calibration": calibration, "--csv": csv_file, "--plot": plot, "--report": report, "--batch-size": batch_size, "--seed": seed,
            "--calibration-source": calibration_source, "--bias-correction": bias_correction or None,
        }  # fmt: skip
        for option, given_value in others.items():
            if given_value is not None:
                raise InputError(f"{option} is of --task images: leave it out, a --recipe says what is to be done")
        from overq.cli.text import evaluate_text

        evaluate_text(
            model=model, weights=weights, text=text, calibration_text=calibration_text, tokenizer=tokenizer, window=window,
            samples=given(samples, 2), limit=given(limit, 4), bits=given(bits, "4"), plain_bits=given(plain_bits, "5,4"),
            weight_bits=given(weight_bits, 8), recipes=recipe or [], device=device, json_file=json_file,
        )  # fmt: skip
        return
    for option, value in (("--text", text), ("--calibration-text", calibration_text), ("--tokenizer", tokenizer)):
        if value is not None:
            raise InputError(f"{option} is of --task text: give that, too")
    if unlabelled and (images is None or labels is not None):
        raise InputError("--unlabelled is for --images without labels: " + ("give --images" if images is None else "leave --labels out"))
    samples = given(samples, 256)
    check_report(report)
    if plot is not None:
        from overq.report.render import kind_of

        kind_of(plot, "--plot")
    from overq.study.accuracy import Plan

    size = batch_size or (64 if images else 448)
    if recipe:
        told = {
            "--bits": bits, "--plain-bits": plain_bits, "--cascades": cascades, "--policy": policy, "--weight-bits": weight_bits,
            "--calibration": calibration, "--bias-correction": bias_correction or None, "--seed": seed, "--calibration-source": calibration_source,
        }  # fmt: skip
        if doubled := [name for name, value in told.items() if value is not None]:
            raise InputError(f"--recipe says what {doubled[0]} would: leave one out")
        from overq.nn.recipe import read_recipe

        plan = Plan(batch_size=size, given=tuple((path.stem, read_recipe(path)) for path in recipe))
    else:
        plan = Plan(
            integers("--plain-bits", given(plain_bits, "8,6,5,4,3")), integers("--bits", given(bits, "4,3")),
            integers("--cascades", given(cascades, "1,2,4,6")), given(policy, "first"), given(weight_bits, 8),
            given(calibration, "format-mse"), size, given(seed, 0), given(calibration_source, "images"), bias_correction,
        )  # fmt: skip
    for _, each in plan.recipes():  # refuse a senseless setting before anything is read
        if calibration_images is not None and each.source != "images":
            raise InputError(f"--calibration-images and the calibration source {each.source} exclude each other: leave one out")
    network, name = network_of(model, weights, images, device)
    if images is None:
        scored, calibrated = built_in_digits()
    else:
        from overq.study.data import Preprocess, open_images

        preprocess = Preprocess(resize or None, crop or None, numbers("--mean", mean), numbers("--std", std))
        scored = open_images(images, labels, preprocess, labelled=not unlabelled)
        calibrated = open_images(calibration_images, None, preprocess, labelled=False) if calibration_images else None
    from overq.study.accuracy import evaluate as run
    from overq.study.data import some_of

    prepare_kernels(device)
    with progress() as update:
        result = run(
            network, some_of(scored, limit or scored.count), plan,
            model_name=name, calibration=calibrated, samples=samples, unlabelled=unlabelled, progress=update,
        )  # fmt: skip
    _show(result, json_file, csv_file, plot)
    if report is not None:
        from overq.report.contents import of_evaluation

        write_report(report, of_evaluation(result, this_command()))


def _show(result: Any, json_file: Path | None, csv_file: Path | None, plot: Path | None) -> None:
    from overq.report.tables import table, to_csv
    from overq.text import console

    if Path("-") not in (json_file, csv_file):
        console(width=None if sys.stdout.isatty() else 110).print(table(result))
    if json_file is not None:
        write(json_file, json.dumps(result.to_json(), indent=1) + "\n")
    if csv_file is not None:
        write(csv_file, to_csv(result))
    if plot is not None:
        from overq.report import charts, render

        write(plot, render.picture(charts.evaluation(result), render.kind_of(plot)))
