"""Images in folders, in the order of torchvision's ImageFolder; what does not count is said, never opened."""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path

from overq.errors import InputError, OverqWarning
from overq.study.pictures import OTHER_SUFFIXES, SUFFIXES

SHOWN = 3  # names in a message
BESIDE = "images beside the class folders"


class LeftOut:
    """What was passed over, by kind; said once, in one line."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[str]] = {}

    def add(self, kind: str, path: Path) -> None:
        self.kinds.setdefault(kind, []).append(str(path))

    def say(self, root: Path) -> None:
        if self.kinds:
            parts = [f"{kind}: {len(paths)} ({names(paths, root)})" for kind, paths in self.kinds.items()]
            warnings.warn(f"{root}: left out: {'; '.join(parts)}", OverqWarning, stacklevel=2)


def names(paths: list[str], root: Path) -> str:
    """The first few, relative to the root."""
    shown = [os.path.relpath(path, root) for path in paths[:SHOWN]]
    return ", ".join(shown) + (", …" if len(paths) > SHOWN else "")


def images_below(root: Path) -> list[Path]:
    """Every image file below a folder."""
    left = LeftOut()
    found = _walk(root, left)
    left.say(root)
    return found


def class_folders(root: Path) -> tuple[list[Path], list[int]]:
    """Images of every subfolder and its number in order of name; hidden folders and those without an image have no number."""
    left, files, labels, classes = LeftOut(), [], [], 0
    for entry in _entries(root):
        path = Path(entry.path)
        if not path.is_dir():
            if path.suffix.lower() in SUFFIXES:
                left.add(BESIDE, path)
        elif entry.name.startswith("."):
            left.add("hidden folders", path)
        elif found := _walk(path, left):
            files += found
            labels += [classes] * len(found)
            classes += 1
        else:
            left.add("folders without an image, which are no classes", path)
    if not files and (BESIDE in left.kinds or not left.kinds):
        raise InputError(f"--images {root}: no subfolder per class; give --labels CSV (columns file, label) for a flat folder")
    left.say(root)
    return files, labels


def _walk(root: Path, left: LeftOut) -> list[Path]:
    """Image files below `root`: folders in order of their whole path, files of each in order of name. Links to folders are followed."""
    found: list[tuple[str, list[Path]]] = []
    waiting = [(root, frozenset[tuple[int, int]]())]
    while waiting:
        folder, above = waiting.pop()
        status = folder.stat()
        here = above | {(status.st_dev, status.st_ino)}
        files = []
        for entry in _entries(folder):
            path, suffix = Path(entry.path), Path(entry.name).suffix.lower()
            try:
                status = entry.stat()
            except OSError as error:
                if suffix in SUFFIXES:
                    raise InputError(f"{path}: cannot be read: {error.strerror}") from error
                continue
            if stat.S_ISDIR(status.st_mode):
                if entry.name.startswith("."):
                    left.add("hidden folders", path)
                elif (status.st_dev, status.st_ino) in here:
                    left.add("links to a folder above", path)
                else:
                    waiting.append((path, here))
            elif suffix in OTHER_SUFFIXES:
                left.add(f"images of a kind that is not read, {suffix}", path)
            elif suffix not in SUFFIXES:
                continue
            elif not stat.S_ISREG(status.st_mode):
                left.add("pipes, sockets or devices", path)
            elif entry.name.startswith("."):
                left.add("hidden files", path)
            else:
                files.append(path)
        found.append((str(folder), files))
    return [path for _, files in sorted(found) for path in files]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
