"""Words of others, made harmless in one place: names of layers, networks and files, on the screen and in tables for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_FORMULA = "=+-@＝＋－＠"  # how a spreadsheet's formula begins


def visible(text: object) -> str:
    """One line in which nothing acts on a terminal: escapes, line breaks and marks that turn the writing direction are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def cell(value: object) -> object:
    """A value for a spreadsheet: text that it would take for a formula begins with an apostrophe."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.lstrip()[:1] in tuple(_FORMULA) and not _is_number(text) else text


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table as CSV, one line a row; numbers as they are, text through `cell`."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def console(**options: Any) -> Console:
    """A rich console that takes brackets and colons in names for what they are."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, **options)


def add_row(table: Table, *values: object) -> None:
    """A row of a rich table, each value as it is."""
    from rich.text import Text

    table.add_row(*(Text(visible(value)) for value in values))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
