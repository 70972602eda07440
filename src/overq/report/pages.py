"""Tables of pages, made from records: a page holds nothing that was typed, and no table mixes records of different code.

A page has a pair of comments for each table, <!-- NAME --> and <!-- end -->; what stands between them is made anew. A TOML file says what:

    [[table]]
    page = "../docs/calibration.md"       # beside the file
    name = "distance"
    records = ["results/cifar10.csv"]     # as `overq study export` writes them
    corner = "network"
    show = "difference"                   # see SHOWN; or a measure of the study's own
    rows = "networks"                     # or "settings", or like columns
    columns = [{ head = "A4 plain", label = "recipe:bits=4,cascade=0:W8" }, …]

A row and a column together name network and label (a list of labels shares the cell); {words} in them come from either. The network
"mean" is the mean over all networks of the records, where each of them has the setting.

    [[fronts]]                            # for each of `ours` and each network: who is best at no more cost, see `report.fronts`
    page, name, records                   # as above
    ours = [{ head = "A3", label = "…" }]
    cost = "bits"                         # or area, with areas = "FILE"; array_area, with arrays = "FILE" and size = 64; or
                                          # bit_cycles, with cycles = "FILE" and size; energy or edp, with energies = "FILE"
    names = { resnet20 = "ResNet-20" }    # what a network is called

    [[text]]                              # words with figures in them, {0} for the first of `values`
    page, name, records                   # as above
    text = "OverQ is {0} dB above plain."
    values = [{ network = "mean", label = "…", show = "sqnr" }]
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from overq.errors import InputError
from overq.records import Record
from overq.report import charts, render, vega
from overq.report.costs import read_areas, read_arrays, read_cycles_of_arrays, with_energies
from overq.report.fronts import fronts
from overq.report.means import gained, mean_of, nearer, spelled
from overq.report.names import OURS
from overq.report.records import read_csv

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

END = "<!-- end -->"


@dataclass(frozen=True)
class Table:
    """One table of a page; fields as in the file.

    show     a key of SHOWN; to the label `against`: `paired` or `gain` (top-1), `more` or `nearer` (dB, with its interval); or a
             measure of the study's own; of several, all
    label    one, or several that share the cell
    """

    page: Path
    name: str
    records: tuple[Path, ...]
    rows: Any
    columns: Any
    corner: str = ""
    show: Any = "top1"
    label: Any = ""
    network: str = ""
    against: Any = ""


@dataclass(frozen=True)
class Fronts:
    """A table of fronts; fields as in the file.

    areas, arrays  tables as `make area` writes them, of elements and of arrays of `size` rows; then the cost is the area in them
    energies       table as benchmarks/energy.py writes it
    cycles         table as benchmarks/cycles_networks.py writes it; who is not OverQ takes those of the plain array
    names          what a network is called
    """

    page: Path
    name: str
    records: tuple[Path, ...]
    ours: Any
    cost: str = "bits"
    names: Any = field(default_factory=dict)
    areas: Path | None = None
    arrays: Path | None = None
    cycles: Path | None = None
    energies: Path | None = None
    size: int = 64


@dataclass(frozen=True)
class Text:
    """Words with figures of records in them; fields as in the file, `values` as cells of a table."""

    page: Path
    name: str
    records: tuple[Path, ...]
    text: str
    values: Any = field(default_factory=list)


@dataclass(frozen=True)
class Picture:
    """One picture. front: accuracy against `cost`; lines: `show` against `x`, a panel for each network, labels with {x} in them."""

    file: Path
    kind: str
    records: tuple[Path, ...]
    cost: str = "bits"
    show: str = "top1"
    axis: str = ""
    x: tuple[int, ...] = ()
    lines: tuple[dict[str, str], ...] = ()


SHOWN: dict[str, Callable[[Record], str]] = {
    "top1": lambda r: _number(r.top1, ".2f"),
    "difference": lambda r: _number(r.difference, "+.2f"),
    "interval": lambda r: "" if r.difference is None else f"{r.difference:+.2f} [{r.low:+.2f}, {r.high:+.2f}]",
    "sqnr": lambda r: _number(r.sqnr, ".1f"),
    "coverage": lambda r: _number(r.coverage, ".3f"),
    "expected_coverage": lambda r: _number(r.expected_coverage, ".3f"),
    "outlier_rate": lambda r: "" if r.outlier_rate is None else f"{100 * r.outlier_rate:.2f} %",
    "bits": lambda r: f"{r.bits:.4g}",
    "zero_rate": lambda r: "" if r.zero_rate is None else f"{100 * r.zero_rate:.0f} %",
    "perplexity": lambda r: _number(r.own.get("perplexity"), ",.1f" if r.own.get("perplexity", 0) >= 10 else ".3f"),
    "ratio": lambda r: "" if "ratio" not in r.own else f"{r.own['ratio']:.2f} [{r.own['ratio_low']:.2f}, {r.own['ratio_high']:.2f}]",
    "agreement": lambda r: _number(r.own.get("agreement"), ".1f"),
    "kl": lambda r: _number(r.own.get("kl"), ".3f"),
    "images": lambda r: str(r.images),
}
AGAINST = {"paired", "gain", "more", "nearer"}  # what is shown of two records


Block = Table | Fronts | Text
FILES = "areas", "arrays", "cycles", "energies"  # of `Fronts`, beside the file
BLOCKS: dict[str, type] = {"table": Table, "fronts": Fronts, "text": Text}


def read(path: Path) -> tuple[list[Block], list[Picture]]:
    """What a file asks for: blocks of pages, and pictures; InputError where it makes no sense."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        blocks = [_entry(cls, entry, path.parent, "page") for kind, cls in BLOCKS.items() for entry in data.pop(kind, [])]
        pictures = [_entry(Picture, entry, path.parent, "file") for entry in data.pop("picture", [])]
        if data:
            raise InputError(f"it holds {', '.join(f'[[{kind}]]' for kind in (*BLOCKS, 'picture'))}, not {', '.join(data)}")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{path}: not a file of tables: {error}") from error
    return blocks, pictures


def _entry(cls: type, entry: dict[str, Any], base: Path, place: str) -> Any:
    if unknown := sorted(entry.keys() - {f.name for f in fields(cls)}):
        raise InputError(f"a {cls.__name__.lower()} has no key {unknown[0]!r}")
    files: dict[str, Any] = {place: base / entry[place], **{key: base / entry[key] for key in FILES if key in entry}}
    return cls(**{**entry, **files, "records": tuple(base / name for name in entry["records"])})


def made(blocks: list[Block]) -> dict[Path, str]:
    """The text of every page with its blocks made anew."""
    pages: dict[Path, str] = {}
    for table in blocks:
        text = pages.get(table.page) or _text_of(table.page)
        begin, found, rest = text.partition(f"<!-- {table.name} -->\n")
        _, closed, after = rest.partition(END)
        if not found or not closed:
            raise InputError(f"{table.page}: no place for the table {table.name!r}: write <!-- {table.name} --> and {END}")
        try:
            pages[table.page] = f"{begin}{found}{drawn(table)}\n{closed}{after}"
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{table.page}: the table {table.name!r} does not make sense: {error!r}") from error
    return pages


def _text_of(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{page}: not a readable page: {getattr(error, 'strerror', None) or error}") from error


def drawn(block: Block) -> str:
    """The block in Markdown; below a table the line that says which records it is made of."""
    found = _all(block.records)
    what = f"{block.page}: the table {block.name!r}"
    used: dict[tuple[str, str], Record] = {}
    if isinstance(block, Text):
        return _filled(block, found, what, used)
    if isinstance(block, Fronts):
        lines, compared = fronts(_with_cost(found, block), block.ours, block.cost, block.names)
        used = {(r.network, r.label): r for r in compared}
    else:
        rows, columns = (_lines(side, found) for side in (block.rows, block.columns))
        usual = {"label": block.label, "network": block.network, "show": block.show, "against": block.against}
        body = [[str(row["head"]), *(_cell({**usual, **row, **column}, found, used) for column in columns)] for row in rows]
        lines = [[block.corner, *(str(column["head"]) for column in columns)], *(line for line in body if any(line[1:]))]
    if not used:
        raise InputError(f"{what} finds none of its records")
    lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
    made_by = origin(what, block.records, list(used.values()))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{made_by}"


def _with_cost(found: list[Record], block: Fronts) -> list[Record]:
    """The records with the area of the block's table, by the name of the element, or with its cycles; as they are where it has none."""
    if block.areas is not None:
        areas = read_areas(block.areas)
        return [replace(record, area=areas.get(record.element, record.weight_bits)) for record in found]
    if block.arrays is not None:
        arrays = read_arrays(block.arrays, block.size)
        return [replace(record, array_area=arrays.get(record.element, record.weight_bits)) for record in found]
    if block.energies is not None:
        return with_energies(found, block.energies)
    if block.cycles is not None:
        cycles = read_cycles_of_arrays(block.cycles, block.size)
        return [replace(record, cycles=cycles.get((record.network, record.method in OURS))) for record in found]
    return found


def _filled(block: Text, found: list[Record], what: str, used: dict[tuple[str, str], Record]) -> str:
    """The words with their figures; one that has no record is refused, as no sentence can do without."""
    values = [_cell({"network": "", "against": "", **value}, found, used) for value in block.values]
    if missing := [value for value, shown in zip(block.values, values, strict=True) if not shown]:
        raise InputError(f"{what} finds no record of {missing[0]}")
    _ = origin(what, block.records, list(used.values()))
    return textwrap.fill(block.text.strip().format(*values), 118, break_long_words=False, break_on_hyphens=False)


def _cell(both: dict[str, Any], found: list[Record], used: dict[tuple[str, str], Record]) -> str:
    """What stands in one place: `both` are the words of row and column. Records that it shows are added to `used`."""
    labels, shows, against = (both[key] if isinstance(both[key], list) else [both[key]] for key in ("label", "show", "against"))
    parts = []
    for i, pattern in enumerate(labels):
        records, bases = (_of(found, str(both["network"]), str(p).format_map(both)) for p in (pattern, against[i % len(against)]))
        shown = ", ".join(filter(None, (_shown(records, bases, show) for show in shows))) if records else ""
        if shown:
            used.update({(r.network, r.label): r for r in (*records, *(bases if AGAINST & set(shows) else ()))})
        parts.append(shown)
    return " / ".join(parts) if any(parts) else ""


def _of(found: list[Record], network: str, label: str) -> list[Record]:
    """The record of a network; for "mean" those of all networks, or none where one of them lacks the setting."""
    records = [record for record in found if record.label == label and network in ("mean", record.network)]
    complete = network != "mean" or len(records) == len({record.network for record in found})
    return records[-1:] if network != "mean" else records if complete else []


def origin(what: str, paths: Iterable[Path], used: list[Record]) -> str:
    """Which code made the records; InputError where that is not one."""
    codes = sorted({record.code for record in used})
    commits = sorted({commit for record in used for commit in (record.commit or "not recorded").split(", ")})
    names = ", ".join(f"`{path.name}`" for path in paths)
    if len(codes) > 1 or not codes[0]:
        raise InputError(
            f"{what} would mix records of different code ({', '.join(code or 'unknown' for code in codes)}): "
            "run the studies again with one version"
        )
    return f"Records of code {codes[0]} (commit {', '.join(commits)}): {names}."


def drawings(picture: Picture) -> dict[Path, bytes]:
    """The picture as files: of an SVG two, light and, with -dark in its name, dark."""
    file, kind = picture.file, render.kind_of(picture.file)
    spec = figure(picture)
    found = {file: render.picture(spec, kind)}
    return found | ({file.with_stem(f"{file.stem}-dark"): render.picture(spec, kind, dark=True)} if kind == "svg" else {})


def figure(picture: Picture) -> render.Spec:
    """The chart, with the line that says which records it is made of."""
    found = _all(picture.records)
    made_by = origin(str(picture.file), picture.records, found)
    if picture.kind == "front":
        return charts.study(found, picture.cost, [made_by])
    if picture.kind == "lines":
        title = vega.MEASURES.get(picture.show, picture.show)
        spec = vega.against(picture.axis, title, [line["head"] for line in picture.lines])
        return render.still(spec, {"lines": _points(picture, found)}, title=[f"{title} against {picture.axis}", made_by])
    raise InputError(f"{picture.file}: a picture is of the kind front or lines, not {picture.kind!r}")


def _points(picture: Picture, found: list[Record]) -> list[dict[str, Any]]:
    by_name = {(record.network, record.label): record for record in found}
    return [
        {"network": network, "series": line["head"], "x": x, "y": value}
        for network in dict.fromkeys(record.network for record in found)
        for line in picture.lines
        for x in picture.x
        if (record := by_name.get((network, line["label"].format(x=x)))) is not None
        and (value := getattr(record, line.get("show", picture.show))) is not None
    ]


def _lines(side: Any, found: list[Record]) -> list[dict[str, Any]]:
    """Rows or columns: networks or settings in the records' order, or as written."""
    if side == "networks":
        return [{"head": name, "network": name} for name in dict.fromkeys(record.network for record in found)]
    if side == "settings":
        return [{"head": f"`{label}`", "label": label} for label in dict.fromkeys(record.label for record in found)]
    return list(side)


def _shown(records: list[Record], bases: list[Record], show: str) -> str:
    if show in ("paired", "gain"):
        if len(records) != len(bases):
            return ""
        found = gained(list(zip(records, bases, strict=True)))
        return spelled(found, 2) if show == "paired" else f"{found[0]:+.2f}"
    record = mean_of(records)
    if show == "nearer":
        return spelled(nearer(list(zip(records, bases, strict=True))), 1) if len(records) == len(bases) else ""
    if show == "more":
        base = mean_of(bases) if len(records) == len(bases) else None
        return "" if base is None or record.sqnr is None or base.sqnr is None else f"{record.sqnr - base.sqnr:+.1f}"
    if show in SHOWN:
        return SHOWN[show](record)
    return _number(record.own.get(show), ".3f")


def _all(paths: Iterable[Path]) -> list[Record]:
    return [record for path in paths for record in _records(path)]


@lru_cache(32)
def _records(path: Path) -> list[Record]:
    return read_csv(path)


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
