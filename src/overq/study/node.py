"""A cell on a node of a cluster: the right files on its disk, once for all cells there, and then as in a local worker."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from overq.errors import InputError, OverqWarning, ToolError
from overq.study.board import Board
from overq.study.cell import Cell
from overq.study.disk import PIECE, Files
from overq.study.fingerprint import fingerprint
from overq.study.plan import Network
from overq.study.workers import Outcome, outcome_of, ready

OTHER = (
    "network or data on this node are not what the study was started with: what a factory reads beside its own file must be named as "
    "weights, or lie on a disk that all nodes share"
)


def run_cell(
    key: str, cell: Cell, files: Files | None, run: str, threads: int, device: str, board: Board | None = None, observers: int = 1
) -> tuple[Outcome, list[str]]:
    """The outcome as a local worker has it, and the warnings that it would print; reasons and warnings name the head's files.

    files      where to get what is not here; None: from nowhere
    run        any name that no other run of a study has
    observers  pieces of a calibration, which workers share on the board
    """
    ready(threads)
    import torch

    from overq.study.evaluate import evaluate, on, sharing

    if device != "cpu" and not torch.cuda.is_available():
        return Outcome(key, reason="ToolError: [resources] gives this cell a graphics card, but torch sees none on the node"), []
    moved: list[tuple[str, str]] = []

    def here(key: str, cell: Cell) -> object:
        network, measures = _placed(cell.network, cell.measures, cell.content, files, run)
        moved.extend(zip(_paths(network, measures), _paths(cell.network, cell.measures), strict=True))
        with on(device), sharing(board, observers):
            return evaluate(key, replace(cell, network=network, measures=measures))

    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", OverqWarning)
        outcome = outcome_of(key, cell, here)

    def heads(text: str) -> str:
        for ours, theirs in moved:
            text = text.replace(ours, theirs)
        return text

    return replace(outcome, reason=outcome.reason and heads(outcome.reason)), [heads(str(each.message)) for each in raised]


@lru_cache(8)
def _placed(network: Network, measures: tuple[str, ...], content: str, files: Files | None, run: str) -> tuple[Network, tuple[str, ...]]:
    """Network and measures with paths that hold here what the fingerprint `content` says: the head's own where a shared disk has
    them, else copies. Looked at once for a node and run, and not again by its other processes.
    """
    folder = _folder()
    copy, checked = folder / content, folder / f"{run}-{content[:32]}"
    paths = tuple(dict.fromkeys(_paths(network, measures)))
    with _locked(folder / f"{content}.lock"):
        if not checked.exists():
            in_place = _holds(network, measures, content)
            if not in_place and files is None:
                raise InputError(OTHER)
            if not in_place and files is not None and not copy.exists():
                _fetch(copy, paths, files, lambda at: _holds(*_moved(network, measures, paths, at), content))
            checked.write_text("in place" if in_place else "copied")
        in_place = checked.read_text() == "in place"
    return (network, measures) if in_place else _moved(network, measures, paths, copy)


def _fetch(copy: Path, paths: Sequence[str], files: Files, right: Callable[[Path], bool]) -> None:
    """Copy what belongs to each path into a folder of its own below `copy`, whole or not at all."""
    begun = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}")
    try:
        for i, (path, listed) in enumerate(zip(paths, files.manifest(tuple(paths)), strict=True)):
            for name, size in listed:
                target = begun / str(i) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as out:
                    for start in range(0, size, PIECE):
                        out.write(files.read(str(Path(path).parent / name), start, PIECE))
        if not right(begun):
            raise InputError(OTHER)
        begun.rename(copy)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _holds(network: Network, measures: tuple[str, ...], content: str) -> bool:
    try:
        return fingerprint(network, measures) == content
    except (InputError, ToolError, OSError):
        return False


def _paths(network: Network, measures: tuple[str, ...]) -> list[str]:
    """The files and folders that are named, as `fingerprint` reads them."""
    found = [_path(value) for value in (network.model, *measures)]
    found += [_path(value) or value for value in (network.weights, network.images, network.labels, network.calibration)]
    return [path for path in found if path not in ("", "digits")]


def _path(name: str) -> str:
    """The file of file.py:function, an ONNX file, or the directory of hf:DIRECTORY."""
    if name.startswith("hf:"):
        return name[3:]
    source = name.rpartition(":")[0]
    return source if source.endswith(".py") else name if name.endswith(".onnx") else ""


def _moved(network: Network, measures: tuple[str, ...], paths: Sequence[str], to: Path) -> tuple[Network, tuple[str, ...]]:
    """With every path where `_fetch` puts it."""
    where = {path: str(to / str(i) / Path(path).name) for i, path in enumerate(paths)}

    def new(name: str) -> str:
        path = _path(name) or name
        return name.replace(path, where[path], 1) if path in where else name

    changed: dict[str, Any] = {name: new(getattr(network, name)) for name in ("model", "weights", "images", "labels", "calibration")}
    return replace(network, **changed), tuple(map(new, measures))


def _folder() -> Path:
    """Where this user's copies lie on this machine."""
    folder = Path(tempfile.gettempdir()) / f"overq-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise InputError(f"{folder}: belongs to somebody else")
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl  # Ray's nodes have it

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
