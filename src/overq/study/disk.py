"""The head's files as nodes of a cluster see them. Light on purpose: the process that serves them needs no torch."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PIECE = 4 << 20  # bytes of a file that travel at once


class Files(Hashable, Protocol):
    """The head's disk, as a node sees it."""

    def manifest(self, paths: tuple[str, ...]) -> list[list[tuple[str, int]]]:
        """Of each path the files that go with it: (path relative to the path's own folder, bytes)."""

    def read(self, path: str, start: int, size: int) -> bytes: ...


@dataclass(frozen=True)
class Disk:
    """The disk of this machine."""

    def manifest(self, paths: tuple[str, ...]) -> list[list[tuple[str, int]]]:
        return [[(str(file.relative_to(Path(path).parent)), file.stat().st_size) for file in _files(Path(path))] for path in paths]

    def read(self, path: str, start: int, size: int) -> bytes:
        with Path(path).open("rb") as file:
            file.seek(start)
            return file.read(size)


def _files(path: Path) -> list[Path]:
    """All files of a folder; of a Python file also its neighbours, which it may import."""
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    return sorted(path.parent.glob("*.py")) if path.suffix == ".py" else [path]
