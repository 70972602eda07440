"""`overq study …`: parse, call, print."""

from __future__ import annotations

import io
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overq.errors import InputError, ToolError
from overq.output import check_outputs, write
from overq.text import visible

if TYPE_CHECKING:
    from overq.report.study import Result

app = typer.Typer(help="Rivals side by side: run, stop, resume, compare, plot.", no_args_is_help=True)
REASONS = 5  # different reasons that `run` prints at its end
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

    from overq.study.cell import ABSENT, tasks
    from overq.study.plan import read
    from overq.study.run import run as go
    from overq.study.store import Store
    from overq.study.workers import LocalWorkers

    check_outputs(store)
    study = read(file)
    rows = tasks(study)
    keys = {row["key"] for row in rows}
    results = Store(store)
    results.forget(study.name, ABSENT)  # what could not be opened last time is looked at again
    results.add(rows)
    for reason, count in Counter(f"{row['network']}: {row['reason']}" for row in rows if row["reason"]).items():
        print(visible(f"{reason}; its {count} cells are marked failed"), file=sys.stderr)
    results.free_dead()
    failed = sum(row["state"] == "failed" for row in results.rows() if row["key"] in keys and not row["key"].startswith(ABSENT))
    if failed:
        print(f"{failed} cells failed before and are left alone: `overq study retry` makes them pending again", file=sys.stderr)
    left = sum(row["state"] == "pending" for row in results.rows() if row["key"] in keys)
    columns = TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=left)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        tally = go(results, keys, LocalWorkers(workers, cores), lambda t: bar.update(task, completed=t.done + t.failed))
    failed = sum(row["state"] == "failed" for row in results.rows() if row["key"] in keys)
    done = sum(row["state"] == "done" for row in results.rows() if row["key"] in keys)
    print(f"{len(keys)} cells: {done} done, {tally.done} of them now, {failed} failed")
    if failed:
        reasons = Counter(row["reason"] for row in results.rows() if row["key"] in keys and row["state"] == "failed").most_common()
        for reason, count in reasons[:REASONS]:
            print(visible(f"{count} failed: {reason}"), file=sys.stderr)
        more = f", {len(reasons) - REASONS} more reasons" if len(reasons) > REASONS else ""
        raise ToolError(f"{failed} cells failed{more}: `overq study show` says which, `overq study retry` makes them pending again")


@app.command()
def retry(store: StorePath = DEFAULT) -> None:
    """Make failed cells pending again; `run` then runs them."""
    print(f"{_open(store).retry()} cells are pending again")


@app.command()
def show(store: StorePath = DEFAULT, study: StudyName = None) -> None:
    """Every setting with its accuracy and cost, and what is not done and why."""
    rows = _rows(store, study)
    results = _results(rows)
    width = max([len(r.label) for r in results], default=7)
    print(
        f"{'study':10} {'network':12} {'setting':{width}} {'top-1':>6} {'to float, 95 %':>24} {'images':>6} {'bits':>6} {'multiplier':>10}"
    )
    for r in results:
        against = "" if r.difference is None else f"{r.difference:+.2f} [{r.low:+.2f}, {r.high:+.2f}]"
        print(
            visible(
                f"{r.study:10} {r.network:12} {r.label:{width}} {r.top1:6.2f} {against:>24} {r.images:6} {r.bits:6.2f} {r.multiplier:10.1f}"
            )
        )
    alike: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row["state"] != "done":
            key = row["state"], row["study"], row["network"], row["reason"] or ""
            alike.setdefault(key, []).append(f"{row['label']} shard {row['shard']}")
    for (state, name, network, reason), cells in alike.items():
        which = cells[0] if len(cells) == 1 else f"{len(cells)} cells, {cells[0]} … {cells[-1]}"
        print(visible(f"{state}: {name} {network} {which}: {reason}".removesuffix(": ")))


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

    done = [row for row in _rows(store, study, one=True) if row["state"] == "done"]
    networks = sorted({r["network"] for r in done if r["label"] == a} & {r["network"] for r in done if r["label"] == b})
    if not networks:
        raise InputError(f"no network has results of both {a!r} and {b!r}; `overq study show` lists the settings")
    for network in networks:
        sides = [{r["shard"]: bits(r) for r in done if (r["network"], r["label"]) == (network, label)} for label in (a, b)]
        common = sorted(sides[0].keys() & sides[1].keys())
        if not common:
            raise InputError(f"{network}: {a!r} and {b!r} have no shard in common yet")
        x, y = (np.concatenate([side[shard] for shard in common]) for side in sides)
        p = paired(x, y)
        print(
            visible(
                f"{network}: {b} - {a} = {p.difference:+.2f} points, 95 % interval [{p.low:+.2f}, {p.high:+.2f}], McNemar p = {p.p:.3g}"
            )
        )
        print(f"  {p.images} images; only {a} right: {p.only_a}; only {b} right: {p.only_b}")


Areas = Annotated[Path | None, typer.Option(help="CSV of element areas, as `make area` writes it.")]
Cycles = Annotated[Path | None, typer.Option(help="CSV with the columns format, cycles and, for several networks, network.")]


@app.command()
def export(output: Path, store: StorePath = DEFAULT, study: StudyName = None, areas: Areas = None, cycles: Cycles = None) -> None:
    """Write one line per setting: .csv (also for -, standard output), or .parquet (needs the extra `parquet`)."""
    from dataclasses import asdict

    from overq.report.study import to_csv

    if output.suffix not in (".csv", ".parquet") and output != Path("-"):
        raise InputError(f"{output}: the name must end in .csv or .parquet")
    check_outputs(output)
    if output.suffix == ".parquet":
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ToolError("Parquet needs pyarrow, which is not installed: pip install 'overq[parquet]', or export .csv") from error
    results = _results(_rows(store, study), areas, cycles)
    if output.suffix != ".parquet":
        write(output, to_csv(results))
        return
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([asdict(r) for r in results]), content)
    write(output, content.getvalue())


@app.command()
def plot(
    output: Path,
    store: StorePath = DEFAULT,
    study: StudyName = None,
    cost: Annotated[str, typer.Option(help="bits, multiplier, area (with --areas) or cycles (with --cycles).")] = "bits",
    areas: Areas = None,
    cycles: Cycles = None,
) -> None:
    """Accuracy against cost, the Pareto front marked: .png, .svg or .pdf."""
    from overq.report.charts import drawn
    from overq.report.costs import read_areas
    from overq.report.study import COSTS, study_figure, verdict

    if cost not in COSTS or output.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"--cost is one of {', '.join(COSTS)}, the file's name ends in .png, .svg or .pdf")
    for name, table in (("area", areas), ("cycles", cycles)):
        if cost == name and table is None:
            raise InputError(f"--cost {name} needs a table: --{name.replace('area', 'areas')} FILE.csv")
    results = [r for r in _results(_rows(store, study, one=True), areas, cycles) if r.method == "float" or getattr(r, cost) is not None]
    if all(r.method == "float" for r in results):
        raise InputError(f"{store}: no quantized setting is complete yet, or none has a known {cost}")
    note = f" ({read_areas(areas).source})" if cost == "area" and areas is not None else ""
    check_outputs(output)
    write(output, drawn(lambda: study_figure(results, cost, note), output.suffix[1:]))
    for network, width in sorted({(r.network, r.weight_bits) for r in results if r.method != "float"}):
        shown = [r for r in results if (r.network, r.weight_bits) == (network, width)]
        print(visible(f"{network}, W{width}: {' '.join(verdict(shown, cost).split())}"))


def _open(path: Path) -> Any:
    from overq.study.store import Store

    if not path.is_file():
        raise InputError(f"--store {path}: no such file; `overq study run` makes it")
    return Store(path)


def _rows(path: Path, study: str | None, one: bool = False) -> list[Any]:
    """Cells of one version for each network; where others are left out, a line on standard error says so. one: of one study only."""
    from overq.study.results import of_one_version, one_study

    rows = _open(path).rows()
    if one or study is not None:
        study = one_study(rows, study)
        rows = [row for row in rows if row["study"] == study]
    kept, lines = of_one_version(rows)
    for line in lines:
        print(visible(line), file=sys.stderr)
    return kept


def _results(rows: list[Any], areas: Path | None = None, cycles: Path | None = None) -> list[Result]:
    """Settings of which every cell is done, each over all its shards, beside float on the same images."""
    from overq.report.costs import read_areas, read_cycles
    from overq.report.study import Result
    from overq.study.compare import paired
    from overq.study.element import element
    from overq.study.results import settled

    found = settled(rows)
    floats = {(s.study, s.network): s.correct for s in found if s.method == "float"}
    area = read_areas(areas) if areas else None
    cycle = read_cycles(cycles, {s.network for s in found}) if cycles else {}
    results = []
    for s in found:
        cost, base, name = s.cost, floats.get((s.study, s.network)), element(s.task)
        width, lanes = int(cost["weight_bits"]), 1 + cost["extra_lanes"]
        p = None if base is None else paired(base, s.correct)
        against: tuple[float | None, float | None, float | None] = (None, None, None) if p is None else (p.difference, p.low, p.high)
        each = area.get(name, width) if area else None
        results.append(Result(
            s.study, s.network, s.label, s.method, len(s.correct), int(s.correct.sum()), 100 * float(s.correct.mean()),
            *against, cost["payload_bits"], cost["metadata_bits"],
            cost["payload_bits"] + cost["metadata_bits"], cost["activation_bits"] * width * lanes, width,
            each and each * lanes, cycle[s.network].get(name, width) if cycle else None,
            s.task["seed"], s.seconds, s.versions["overq"], s.versions["code"], s.versions["commit"], s.versions["torch"], s.versions["numpy"],
        ))  # fmt: skip
    return results
