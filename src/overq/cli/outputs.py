"""Where commands write: checked before work starts, and whole or not at all."""

from __future__ import annotations

from pathlib import Path

from overq.errors import InputError


def check_output(path: Path | None) -> None:
    """Refuse a folder; make the parent folder. None and - (standard output) are fine."""
    if path is None or path == Path("-"):
        return
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Whole or not at all: to a neighbour first, then renamed."""
    if path == Path("-"):
        print(content, end="")
        return
    neighbour = path.with_name(f".{path.name}.part")
    try:
        neighbour.write_bytes(content.encode() if isinstance(content, str) else content)
        neighbour.replace(path)
    finally:
        neighbour.unlink(missing_ok=True)
