"""`overq report`: parse, call, print; and what `--report` of other commands shares with it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overq.errors import InputError
from overq.output import check_outputs, write
from overq.text import visible

if TYPE_CHECKING:
    from overq.report.contents import Contents

app = typer.Typer()
Report = Annotated[Path | None, typer.Option("--report", help="Write a report to look at: one HTML file that needs no network.")]


@app.command(epilog="Example: overq report study.sqlite --out report.html")
def report(
    source: Annotated[Path, typer.Argument(help="A study's store, a CSV of `overq study export`, or a JSON of `overq evaluate`.")],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    study: Annotated[str | None, typer.Option("--study", help="Only this study of the store.")] = None,
    areas: Annotated[Path | None, typer.Option(help="CSV of element areas, as `make area` writes it.")] = None,
    arrays: Annotated[Path | None, typer.Option(help="CSV of whole arrays' areas, as `make area` writes it.")] = None,
    size: Annotated[int, typer.Option(min=2, help="Rows and columns of the array that --arrays is read for.")] = 16,
    cycles: Annotated[Path | None, typer.Option(help="CSV with the columns format, cycles and, for several networks, network.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder: also every chart of accuracy against cost as PNG and SVG.")] = None,
) -> None:
    """One file to look at: the answer in words, charts, tables, layers, an explorer, costs and what is missing.

    Needs the extra `report`. The file holds everything and loads nothing: send it by mail, open it anywhere.
    """
    from overq.cli.contents import contents_of

    check_outputs(out)
    contents = contents_of(source, study, areas, arrays, size, cycles)
    write_report(out, contents)
    if pictures is not None:
        from overq.report.charts import files

        made = files(contents.records)
        pictures.mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            write(pictures / name, content)
        print(f"{len(made)} pictures in {visible(pictures)}")


def write_report(out: Path, contents: Contents) -> None:
    """Write the page and say where; to standard output it goes without a word."""
    from overq.report.html import page

    text = page(contents)
    write(out, text)
    if out != Path("-"):
        print(f"report: {visible(out)} ({len(text.encode()) / 1e6:.1f} MB, opens without a network)")


def check_report(out: Path | None) -> None:
    """Refuse what could not be written, or drawn, before the work."""
    if out is None:
        return
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--report {out}: the name must end in .html")
    from overq.report.render import library

    library()


def this_command() -> tuple[str, ...]:
    """The command line that runs, to be typed again."""
    return (shlex.join(["overq", *sys.argv[1:]]),)


def facts(pairs: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Pairs of text."""
    return tuple((name, str(value)) for name, value in pairs.items())


def versions_here() -> tuple[tuple[str, str], ...]:
    """Of what runs now."""
    from overq.study.version import commit, package, versions

    return tuple((versions() | {"commit": commit(package()) or "not recorded"}).items())
