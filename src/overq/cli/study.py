"""`overq study …`: parse, call, print."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overq.cli.outputs import check_output, write
from overq.errors import InputError, ToolError

if TYPE_CHECKING:
    from overq.report.study import Result

app = typer.Typer(help="Rivals side by side: run, stop, resume, compare, plot.", no_args_is_help=True)
StorePath = Annotated[Path, typer.Option("--store", help="The results: one SQLite file.")]
StudyName = Annotated[str | None, typer.Option("--study", help="Only this study's cells.")]
DEFAULT = Path("study.sqlite")


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="The study: a TOML file.")],
    store: StorePath = DEFAULT,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the cores are shared between them.")] = 1,
) -> None:
    """Run what is missing. Stop it whenever you like; the same command goes on."""
    import os

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from overq.study.cell import tasks
    from overq.study.plan import read
    from overq.study.run import run as go
    from overq.study.store import Store
    from overq.study.workers import LocalWorkers

    rows = tasks(read(file))
    keys = {row["key"] for row in rows}
    results = Store(store)
    results.add(rows)
    results.free_dead()
    left = sum(row["state"] == "pending" for row in results.rows() if row["key"] in keys)
    columns = TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=left)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        tally = go(results, keys, LocalWorkers(workers, cores), lambda t: bar.update(task, completed=t.done + t.failed))
    failed = sum(row["state"] == "failed" for row in results.rows() if row["key"] in keys)
    print(f"{len(keys)} cells: {len(keys) - left} were there, {tally.done} done now, {failed} failed")
    if failed:
        raise ToolError(f"{failed} cells failed: `overq study show` gives reasons, `overq study retry` makes them pending again")


@app.command()
def retry(store: StorePath = DEFAULT) -> None:
    """Make failed cells pending again; `run` then runs them."""
    print(f"{_open(store).retry()} cells are pending again")


@app.command()
def show(store: StorePath = DEFAULT, study: StudyName = None) -> None:
    """Every setting with its accuracy and cost, and what failed and why."""
    print(f"{'network':12} {'setting':46} {'top-1':>7} {'images':>7} {'bits':>6} {'multiplier':>10}")
    for r in _results(store, study):
        print(f"{r.network:12} {r.label:46} {r.top1:7.2f} {r.images:7} {r.bits:6.2f} {r.multiplier:10.1f}")
    for row in _open(store).rows(study):
        if row["state"] != "done":
            print(f"{row['state']}: {row['network']} {row['label']} shard {row['shard']} {row['reason'] or ''}")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A setting as `show` prints it.")],
    b: str,
    store: StorePath = DEFAULT,
    study: StudyName = None,
) -> None:
    """B against A on the same images: difference with its 95 % interval, McNemar's exact p."""
    import numpy as np

    from overq.study.compare import paired
    from overq.study.store import bits

    rows = [r for r in _open(store).rows(study) if r["state"] == "done"]
    networks = sorted({r["network"] for r in rows if r["label"] == a} & {r["network"] for r in rows if r["label"] == b})
    if not networks:
        raise InputError(f"no network has results of both {a!r} and {b!r}; `overq study show` lists the settings")
    for network in networks:
        sides = []
        for label in (a, b):
            shards = {r["shard"]: r for r in rows if (r["network"], r["label"]) == (network, label)}
            sides.append(shards)
        common = sorted(sides[0].keys() & sides[1].keys())
        if not common:
            raise InputError(f"{network}: {a!r} and {b!r} have no shard in common yet")
        x, y = (np.concatenate([bits(side[s]) for s in common]) for side in sides)
        p = paired(x, y)
        print(f"{network}: {b} - {a} = {p.difference:+.2f} points, 95 % interval [{p.low:+.2f}, {p.high:+.2f}], McNemar p = {p.p:.3g}")
        print(f"  {p.images} images; only {a} right: {p.only_a}; only {b} right: {p.only_b}")


@app.command()
def export(output: Path, store: StorePath = DEFAULT, study: StudyName = None) -> None:
    """Write .csv, or .parquet where pyarrow is installed."""
    from dataclasses import asdict

    from overq.report.study import to_csv

    results = _results(store, study)
    if output.suffix == ".csv":
        check_output(output)
        write(output, to_csv(results))
    elif output.suffix == ".parquet":
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ToolError("Parquet needs pyarrow, which is not installed: pip install pyarrow, or export .csv") from error
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([asdict(r) for r in results]), output)
    else:
        raise InputError(f"{output}: the name must end in .csv or .parquet")


@app.command()
def plot(
    output: Path,
    store: StorePath = DEFAULT,
    study: StudyName = None,
    cost: Annotated[str, typer.Option(help="bits or multiplier.")] = "bits",
) -> None:
    """Accuracy against cost, the Pareto front marked: .png, .svg or .pdf."""
    from overq.report.study import study_figure

    if cost not in ("bits", "multiplier") or output.suffix not in (".png", ".svg", ".pdf"):
        raise InputError("--cost is bits or multiplier, the file's name ends in .png, .svg or .pdf")
    results = _results(store, study)
    if not any(r.method != "float" for r in results):
        raise InputError(f"{store}: no quantized setting is complete yet")
    picture = io.BytesIO()
    study_figure(results, cost).savefig(picture, format=output.suffix[1:], dpi=120)
    check_output(output)
    write(output, picture.getvalue())


def _open(path: Path) -> Any:
    from overq.study.store import Store

    if not path.is_file():
        raise InputError(f"--store {path}: no such file; `overq study run` makes it")
    return Store(path)


def _results(path: Path, study: str | None) -> list[Result]:
    """Settings of which every cell is done, each over all its shards, for the newest code that ran them."""
    import json

    from overq.report.study import Result
    from overq.study.store import bits

    groups: dict[tuple[str, str, str], list[Any]] = {}
    for row in _open(path).rows(study):
        groups.setdefault((row["study"], row["network"], row["label"]), []).append(row)
    results = []
    for (_, network, label), rows in groups.items():
        newest = {row["shard"]: row for row in rows}
        if any(row["state"] != "done" for row in newest.values()):
            continue
        shards = list(newest.values())
        cost, made, task = (json.loads(shards[0][name]) for name in ("cost", "versions", "task"))
        images, correct = sum(r["images"] for r in shards), sum(int(bits(r).sum()) for r in shards)
        multiplier = cost["activation_bits"] * cost["weight_bits"] * (1 + cost["extra_lanes"])
        results.append(Result(
            network, label, shards[0]["method"], images, correct, 100 * correct / images, cost["payload_bits"], cost["metadata_bits"],
            cost["payload_bits"] + cost["metadata_bits"], multiplier, cost["weight_bits"], task["seed"],
            sum(r["seconds"] for r in shards), made["overq"], made["code"], made["torch"],
        ))  # fmt: skip
    return results
