"""`overq evaluate --task text`: parse, call, print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from overq.cli.inputs import integers
from overq.cli.progress import prepare_kernels, progress
from overq.errors import InputError
from overq.output import write
from overq.text import add_row, console


def evaluate_text(
    *, model: str | None, weights: Path | None, text: Path | None, calibration_text: Path | None, tokenizer: str | None, window: int,
    samples: int, limit: int, bits: str, plain_bits: str, weight_bits: int, recipes: list[Path], device: str, json_file: Path | None,
) -> None:  # fmt: skip
    """Perplexity and agreement of a language model in float, plain, rotated and OverQ."""
    if model is None or text is None:
        raise InputError("--task text needs --model and --text")
    import torch

    from overq.nn.recipe import read_recipe
    from overq.study.language import check_ids, encoder_of, evaluate, split, usual
    from overq.study.models import load_model
    from overq.study.text import open_text

    settings = [(path.stem, read_recipe(path)) for path in recipes]
    settings = settings or usual(integers("--bits", bits), integers("--plain-bits", plain_bits), weight_bits)
    encode = encoder_of(model, tokenizer)
    if calibration_text is None:
        scored, calibration = split(open_text(text, encode, window, samples + limit), samples, limit)
    else:
        scored, calibration = open_text(text, encode, window, limit), open_text(calibration_text, encode, window, samples)
    network = load_model(model, weights).to(torch.device(device))
    for windows in (scored, calibration):
        check_ids(network, windows)
    prepare_kernels(device)
    with progress() as update:
        lines = evaluate(network, scored, calibration, settings, update)
    if json_file is not None:
        facts = {"text": str(text), "windows": scored.count, "window": window, "calibration_windows": calibration.count}
        write(json_file, json.dumps({"model": model, **facts, "results": [line.to_json() for line in lines]}, indent=1) + "\n")
    if json_file != Path("-"):
        console(width=None if sys.stdout.isatty() else 110).print(
            _table(lines, f"{model}: {scored.count} windows of {window} tokens of {scored.name}")
        )


def _table(lines: list[Any], title: str) -> Table:
    table = Table(title=title)
    for heading in ("setting", "bits stored", "perplexity", "/ float", "95 %", "same token", "KL"):
        table.add_column(heading, justify="left" if heading == "setting" else "right")
    for line in lines:
        interval = "" if line is lines[0] else f"{line.low:.2f} … {line.high:.2f}"
        add_row(
            table, line.setting, f"{line.bits:.2f}", f"{line.perplexity:,.1f}", f"{line.ratio:.3f}", interval, f"{line.agreement:.1f} %",
            f"{line.kl:.3f}",
        )  # fmt: skip
    return table
