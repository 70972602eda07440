"""Labels: a table of file names and class numbers, and what a class number must be. Nothing is guessed or rounded."""

from __future__ import annotations

import csv
import os
import re
import warnings
from pathlib import Path

import numpy as np

from overq.errors import InputError, OverqWarning

HIGHEST = 10**6  # of a class number: no classifier has more
DELIMITERS = ",;\t"
_NUMBER = re.compile(r"[0-9]{1,9}")


def read_table(folder: Path, table: Path) -> tuple[list[Path], np.ndarray, list[int]]:
    """(files, labels int64, line of each) of a CSV with the columns file and label; files relative to `folder`.

    Comma, semicolon or tab; a byte order mark, spaces around fields and either line end are read. A row that stands twice counts
    once, with a word. InputError names the table and the line of what is not a class number, of a file that is not there, and of
    two rows that disagree.
    """
    if not table.is_file():
        raise InputError(f"--labels {table}: {'not a regular file' if table.exists() else 'no such file'}")
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            return _rows(handle, folder, table)
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"--labels {table}: not a readable CSV file: it is not UTF-8 text ({error.reason})") from error
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"--labels {table}: not a readable CSV file ({error})") from error


def _rows(handle, folder: Path, table: Path) -> tuple[list[Path], np.ndarray, list[int]]:  # type: ignore[no-untyped-def]
    head = handle.readline()
    delimiter = max(DELIMITERS, key=head.count)
    columns = [name.strip() for name in next(csv.reader([head], delimiter=delimiter, skipinitialspace=True), [])]
    if columns.count("file") != 1 or columns.count("label") != 1:
        raise InputError(
            f"--labels {table}: the first line must name the columns file and label, each once, got {', '.join(columns)[:200]}"
        )
    at = columns.index("file"), columns.index("label")
    seen: dict[str, tuple[int, int]] = {}  # file -> (label, line)
    twice = 0
    rows = csv.reader(handle, delimiter=delimiter, skipinitialspace=True)
    for fields in rows:
        if not any(field.strip() for field in fields):
            continue
        line = rows.line_num + 1
        where = f"--labels {table}, line {line}"
        if len(fields) != len(columns):
            raise InputError(f"{where}: {len(fields)} fields, but the first line has {len(columns)}")
        file, label = (fields[i].strip() for i in at)
        name = os.path.normpath(folder / file)
        if not file or "\0" in file or not os.path.isfile(name):  # noqa: PTH113  (never raises, whatever the name holds)
            raise InputError(f"{where}: no image {folder / file}")
        number = _class_number(label, where)
        before = seen.get(name)
        if before is not None and before[0] != number:
            raise InputError(f"{where}: {file} has label {number}, but {before[0]} in line {before[1]}")
        twice += before is not None
        seen.setdefault(name, (number, line))
    if twice:
        warnings.warn(f"--labels {table}: {twice} rows stand twice; each image counts once", OverqWarning, stacklevel=3)
    numbers = np.array([label for label, _ in seen.values()], np.int64)
    return [Path(name) for name in seen], numbers, [line for _, line in seen.values()]


def _class_number(text: str, where: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise InputError(f"{where}: label must be a class number, not {text[:40]!r}")
    if int(text) > HIGHEST:
        raise InputError(f"{where}: label {text} is beyond any classifier's classes; class numbers begin at 0")
    return int(text)


def checked_array(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """Labels of an array file as int64 [count]; InputError for other shapes, dtypes and values."""
    if labels.shape != (count,):
        raise InputError(f"{where}: labels must be {[count]}, one for each image, not {list(labels.shape)}")
    if labels.dtype.kind not in "iu":
        raise InputError(f"{where}: labels must be integers, not {labels.dtype}")
    wrong = np.flatnonzero((labels < 0) | (labels > HIGHEST))
    if wrong.size:
        raise InputError(f"{where}, labels[{wrong[0]}]: label must be a class number, not {labels[wrong[0]]}")
    return labels.astype(np.int64)
