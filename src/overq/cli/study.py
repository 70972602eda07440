"""`overq study …`: parse, call, print."""

from __future__ import annotations

import io
import json
import math
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from overq.errors import InputError, ToolError
from overq.output import check_outputs, write
from overq.text import visible

if TYPE_CHECKING:
    from overq.records import Record

app = typer.Typer(help="Rivals side by side: run, stop, resume, compare, plot.", no_args_is_help=True)
COSTS = ("bits", "multiplier", "area", "cycles", "energy", "edp")  # what `plot` can draw accuracy against
REASONS = 5  # different reasons that `run` prints at its end
StorePath = Annotated[Path, typer.Option("--store", help="The results: one SQLite file.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write everything; - is standard output.")]
StudyName = Annotated[str | None, typer.Option("--study", help="Only this study's cells.")]
DEFAULT = Path("study.sqlite")


@app.command(epilog="Example: overq study run study.toml --store study.sqlite --workers 2")
def run(
    file: Annotated[Path, typer.Argument(help="The study: a TOML file.")],
    store: StorePath = DEFAULT,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells at once: 1 unless given, on Ray as many as fit. The local engine's share the cores.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local: processes here; ray: tasks on a Ray cluster (extra `ray`); folder: see `overq study work`.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster: HOST:PORT, or auto on one of its machines; left out: one on this machine. Or the folder."),
    ] = None,
    observers: Annotated[
        int | None, typer.Option(min=1, help="Pieces of each network's calibration, for workers to share; in place of [resources].")
    ] = None,
) -> None:
    """Run what is missing. Stop it whenever you like; the same command goes on."""
    import os
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from overq.study.cell import ABSENT, cells_of
    from overq.study.plan import read
    from overq.study.resources import read_resources
    from overq.study.run import run as go
    from overq.study.store import Store, cell_of
    from overq.study.workers import Executor, LocalWorkers

    if engine not in ("local", "ray", "folder"):
        raise InputError(f"--engine {engine}: local, ray or folder")
    if (engine == "local" and address is not None) or (engine == "folder" and address is None):
        raise InputError(f"--engine {engine} {'needs' if address is None else 'takes no'} --address")
    check_outputs(store)
    study = read(file)
    resources = read_resources(file, tuple(network.name for network in study.networks))
    if observers is not None:
        resources = {network: replace(each, observers=observers) for network, each in resources.items()}
    shares = {network: each.observers for network, each in resources.items()}
    if max(shares.values()) > 1:
        from overq.study.evaluate import alone

        for which, number in Counter(filter(None, map(alone, study.settings))).items():
            text = f"observers share what float networks see; {number} settings ({which}) calibrate further, each worker for itself"
            _say(text, file=sys.stderr)
    cells, reasons = cells_of(study)
    keys = {cell.key for cell in cells}
    results = Store(store)
    results.forget(study.name, ABSENT)  # what could not be opened last time is looked at again
    results.add(study.name, cells, reasons)
    for row in results.rows(study.name):
        cell_of(row)  # refuses what is damaged now, not after the work
    for network, reason in reasons.items():
        count = sum(cell.network.name == network for cell in cells)
        _say(f"{network}: {reason}; its {count} cells are marked failed", file=sys.stderr)
    results.free_dead()
    states = Counter(row["state"] for row in results.rows() if row["key"] in keys and not row["key"].startswith(ABSENT))
    if failed := states["failed"]:
        _say(f"{failed} cells failed before and are left alone: `overq study retry` makes them pending again", file=sys.stderr)
    columns = TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=states["pending"])
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        executor: Executor
        if engine == "ray":
            from overq.study.ray_workers import RayWorkers

            executor = RayWorkers(resources, cores, address, workers)
        elif engine == "folder":
            from overq.study.mailbox import MailboxWorkers

            executor = MailboxWorkers(Path(str(address)), shares)
        else:
            executor = LocalWorkers(workers or 1, cores, shares)
        tally = go(results, cells, executor, lambda t: bar.update(task, completed=t.done + t.failed))
    mine = [row for row in results.rows() if row["key"] in keys]
    states = Counter(row["state"] for row in mine)
    elsewhere = f", {states['running']} under way elsewhere" if states["running"] else ""
    _say(f"{len(keys)} cells: {states['done']} done, {tally.done} of them now, {states['failed']} failed{elsewhere}")
    if failed := states["failed"]:
        why = Counter(row["reason"] for row in mine if row["state"] == "failed").most_common()
        for reason, count in why[:REASONS]:
            _say(f"{count} failed: {reason}", file=sys.stderr)
        more = f", {len(why) - REASONS} more reasons" if len(why) > REASONS else ""
        raise ToolError(f"{failed} cells failed{more}: `overq study show` says which, `overq study retry` makes them pending again")


@app.command(epilog="Example: overq study work /shared/cells --threads 4")
def work(
    folder: Annotated[Path, typer.Argument(help="The folder that the head has as --address, on a disk that both share.")],
    threads: Annotated[int, typer.Option(min=1, help="Of this one worker.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    wait: Annotated[int, typer.Option(min=0, help="Seconds for a head to come.")] = 120,
) -> None:
    """Run cells of a study that another machine leads (`study run --engine folder`); end when it has ended."""
    import uuid
    import warnings

    from overq.errors import OverqWarning
    from overq.study.board import FolderBoard
    from overq.study.cell import Cell
    from overq.study.mailbox import observers_of
    from overq.study.mailbox import work as go
    from overq.study.node import run_cell
    from overq.study.workers import Outcome

    run = uuid.uuid4().hex

    def one(key: str, cell: Cell) -> Outcome:
        board = FolderBoard(folder / "observed")
        outcome, warned = run_cell(key, cell, None, run, threads, device, board, observers_of(folder, cell.network.name))
        for text in warned:
            warnings.warn(text, OverqWarning, stacklevel=1)
        return outcome

    _say(f"{go(folder, one, wait)} cells run")


@app.command(epilog="Example: overq study retry --store study.sqlite")
def retry(store: StorePath = DEFAULT) -> None:
    """Make failed cells pending again; `run` then runs them."""
    _say(f"{_open(store, read_only=False).retry()} cells are pending again")


@app.command(epilog="Example: overq study show --store study.sqlite --study cifar10")
def show(store: StorePath = DEFAULT, study: StudyName = None, json_file: Json = None) -> None:
    """Every setting with its accuracy and cost, and what is not done and why."""
    from overq.study.store import cell_of

    check_outputs(json_file)
    rows = _rows(store, study)
    results = _records(rows)
    if json_file is not None:
        open_cells = [{key: row[key] for key in ("study", "network", "label", "state", "reason")} for row in rows if row["state"] != "done"]
        write(json_file, json.dumps({"settings": [asdict(r) for r in results], "open": open_cells}, indent=1) + "\n")
        if json_file == Path("-"):
            return
    width = max([len(r.label) for r in results], default=7)
    values = [{"top-1": r.top1, "SQNR": r.sqnr, "coverage": r.coverage, **r.own} for r in results]
    measures = list(dict.fromkeys(name for line in values for name, value in line.items() if value is not None))
    heads = " ".join(f"{name:>8}" for name in measures)
    _say(f"{'study':10} {'network':12} {'setting':{width}} {heads} {'to float, 95 %':>24} {'images':>6} {'bits':>6} {'multiplier':>10}")
    for r, line in zip(results, values, strict=True):
        against = "" if r.difference is None else f"{r.difference:+.2f} [{r.low:+.2f}, {r.high:+.2f}]"
        shown = " ".join(f"{'' if (value := line.get(name)) is None else f'{value:.4g}':>{max(8, len(name))}}" for name in measures)
        _say(f"{r.study:10} {r.network:12} {r.label:{width}} {shown} {against:>24} {r.images:6} {r.bits:6.2f} {r.multiplier:10.1f}")
    alike: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row["state"] != "done":
            key = row["state"], row["study"], row["network"], row["reason"] or ""
            alike.setdefault(key, []).append(f"{row['label']} shard {cell_of(row).shard}")
    for (state, name, network, reason), cells in alike.items():
        which = cells[0] if len(cells) == 1 else f"{len(cells)} cells, {cells[0]} … {cells[-1]}"
        _say(f"{state}: {name} {network} {which}: {reason}".removesuffix(": "))


@app.command(epilog="Example: overq study compare float overq:bits=4,cascade=4:W8 --store study.sqlite")
def compare(
    a: Annotated[str, typer.Argument(help="A setting as `show` prints it.")],
    b: str,
    store: StorePath = DEFAULT,
    study: StudyName = None,
    measure: Annotated[str, typer.Option(help="top1, sqnr, or the study's own file.py:function.")] = "top1",
    json_file: Json = None,
) -> None:
    """B against A on the same images: difference with its 95 % interval, and an exact sign test (McNemar's, for top-1)."""
    from overq.study.table import compared

    unit, test = {"top1": ("points", "McNemar"), "sqnr": ("dB", "sign test")}.get(measure, ("", "sign test"))
    better = "right" if measure == "top1" else "better"
    check_outputs(json_file)
    found = compared(_rows(store, study, one=True), a, b, measure)
    if json_file is not None:
        lines = [{"network": network, "a": a, "b": b, "measure": measure, **_finite(asdict(p))} for network, p in found]
        write(json_file, json.dumps(lines, indent=1) + "\n")
        if json_file == Path("-"):
            return
    for network, p in found:
        difference = f"{p.difference:+.4g}" if measure not in ("top1", "sqnr") else f"{p.difference:+.2f}"
        interval = f"95 % interval [{p.low:+.2f}, {p.high:+.2f}]"
        _say(f"{network}: {b} - {a} = {' '.join(filter(None, (difference, unit)))}, {interval}, {test} p = {p.p:.3g}")
        _say(f"  {p.images} images; only {a} {better}: {p.only_a}; only {b} {better}: {p.only_b}")


Areas = Annotated[Path | None, typer.Option(help="CSV of element areas, as `make area` writes it.")]
Cycles = Annotated[Path | None, typer.Option(help="CSV with the columns format, cycles and, for several networks, network.")]
Energies = Annotated[Path | None, typer.Option(help="CSV of energies, as benchmarks/energy.py writes it: format, energy, edp.")]


@app.command(epilog="Example: overq study export results.csv --store study.sqlite")
def export(
    output: Path,
    store: StorePath = DEFAULT,
    study: StudyName = None,
    areas: Areas = None,
    cycles: Cycles = None,
    energies: Energies = None,
) -> None:
    """Write one line per setting: .csv (also for -, standard output), or .parquet (needs the extra `parquet`)."""
    from overq.report.records import table_of, to_csv

    if output.suffix not in (".csv", ".parquet") and output != Path("-"):
        raise InputError(f"{output}: the name must end in .csv or .parquet")
    check_outputs(output)
    if output.suffix == ".parquet":
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ToolError("Parquet needs pyarrow, which is not installed: pip install 'overq[parquet]', or export .csv") from error
    results = _records(_rows(store, study), areas, cycles, energies)
    if output.suffix != ".parquet":
        write(output, to_csv(results))
        return
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table_of(results)), content)
    write(output, content.getvalue())


@app.command(epilog="Example: overq study plot front.svg --cost bits --store study.sqlite")
def plot(
    output: Path,
    store: StorePath = DEFAULT,
    study: StudyName = None,
    cost: Annotated[
        str, typer.Option(help="bits, multiplier, area (with --areas), cycles (with --cycles), energy or edp (with --energies).")
    ] = "bits",
    areas: Areas = None,
    cycles: Cycles = None,
    energies: Energies = None,
) -> None:
    """Accuracy against cost, the Pareto front marked: .png, .svg or .pdf."""
    from overq.report import charts, render
    from overq.report.costs import read_areas
    from overq.report.study import verdict

    if cost not in COSTS:
        raise InputError(f"--cost is one of {', '.join(COSTS)}, not {cost!r}")
    kind = render.kind_of(output)
    tables = {"area": ("areas", areas), "cycles": ("cycles", cycles), "energy": ("energies", energies), "edp": ("energies", energies)}
    if cost in tables and tables[cost][1] is None:
        raise InputError(f"--cost {cost} needs a table: --{tables[cost][0]} FILE.csv")
    found = _records(_rows(store, study, one=True), areas, cycles, energies)
    results = [r for r in found if r.method == "float" or getattr(r, cost) is not None]
    if all(r.method == "float" for r in results):
        raise InputError(f"{store}: no quantized setting is complete yet, or none has a known {cost}")
    note = [f"areas: {visible(read_areas(areas).source)}"] if cost == "area" and areas is not None else []
    check_outputs(output)
    write(output, render.picture(charts.study(results, cost, note), kind))
    for network, width in sorted({(r.network, r.weight_bits) for r in results if r.method != "float"}):
        shown = [r for r in results if (r.network, r.weight_bits) == (network, width)]
        _say(f"{network}, W{width}: {verdict(shown, cost)}")


@app.command(epilog="Example: overq study pages studies/pages.toml --check")
def pages(
    file: Annotated[Path, typer.Argument(help="What to make: a TOML file of tables and pictures.")],
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where a page is not what its records make.")] = False,
) -> None:
    """Make the tables and pictures of pages anew from exported records."""
    from overq.report.pages import drawings, made, read

    tables, pictures = read(file)
    texts = made(tables)
    if check:
        stale = [page for page, text in texts.items() if page.read_text(encoding="utf-8") != text]
        if stale:
            raise InputError(f"{stale[0]} is not what its records make: `overq study pages {file}` writes it anew")
        return
    for page, text in texts.items():
        write(page, text)
    for picture in pictures:
        for file, content in drawings(picture).items():
            write(file, content)
    _say(f"{len(tables)} tables on {len(texts)} pages, {len(pictures)} pictures")


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity; what is exact on one side is null."""
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _say(line: str, file: TextIO | None = None) -> None:
    """Print a line in which names act on no terminal."""
    print(visible(line), file=file)


def _open(path: Path, read_only: bool = True) -> Any:
    from overq.study.store import Store

    if not path.is_file():
        raise InputError(f"--store {path}: no such file; `overq study run` makes it")
    return Store(path, read_only)


def _rows(path: Path, study: str | None, one: bool = False) -> list[Any]:
    """Cells of one version for each network; where others are left out, a line on standard error says so. one: of one study only."""
    from overq.study.table import of_one_version, one_study

    store = _open(path)
    rows = store.rows()
    store.close()
    if one or study is not None:
        study = one_study(rows, study)
        rows = [row for row in rows if row["study"] == study]
    kept, lines = of_one_version(rows)
    for line in lines:
        _say(line, file=sys.stderr)
    return kept


def _records(rows: list[Any], areas: Path | None = None, cycles: Path | None = None, energies: Path | None = None) -> list[Record]:
    from overq.report.costs import read_areas, read_cycles, with_energies
    from overq.study.table import records

    networks = {row["network"] for row in rows}
    found = records(rows, read_areas(areas) if areas else None, read_cycles(cycles, networks) if cycles else None)
    return with_energies(found, energies) if energies else found
