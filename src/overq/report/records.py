"""Records of studies as a table in a file, and back."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from overq.errors import InputError
from overq.records import Record
from overq.text import csv_text


def table_of(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The records as rows of one table, each with every column; the study's own measures stand beside the others."""
    rows = [asdict(record) for record in records]
    own = [row.pop("own") for row in rows]
    names = list(dict.fromkeys(name for each in own for name in each))
    return [row | {name: each.get(name) for name in names} for row, each in zip(rows, own, strict=True)]


def to_csv(records: Iterable[Record]) -> str:
    """One line a record; numbers with six decimals."""
    rows = table_of(records)
    columns = list(rows[0]) if rows else [f.name for f in fields(Record) if f.name != "own"]
    return csv_text(columns, ({key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()} for row in rows))


def read_csv(path: Path) -> list[Record]:
    """The inverse of `to_csv`, but for the rounding; InputError for anything else."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_record_of(row) for row in csv.DictReader(file, restval="")]
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a table of records as `overq study export` writes it ({type(error).__name__}: {error})") from error


def _record_of(row: dict[str, str]) -> Record:
    values: dict[str, Any] = {}
    for f in fields(Record):
        if f.name == "own" or (f.name not in row and f.default is not MISSING):  # of an earlier version
            continue
        text, kind = row.pop(f.name), str(f.type)
        read: Any = int if kind.startswith("int") else float if kind.startswith("float") else str
        values[f.name] = None if not text and "None" in kind else read(text)
    return Record(**values, own={name: float(value) for name, value in row.items() if value})
