"""What several workers need and one of them makes: each part once, by whoever is free, read by all the others.

A board is a folder. NAME is a part that is there, whole; NAME.taken is touched by the worker that makes it; NAME.TOKEN.part grows.
Workers on other machines reach it through the head (`ray_workers`) or a disk that all share (`mailbox`). A part that is made twice,
because its maker was taken for dead, is the same both times; where the board fails (a full disk, another head that cleared it), who needs
a part makes it.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from overq.study.disk import PIECE
from overq.study.signs import Sign, now_on

LOOK, SIGN, LEASE = 0.2, 5.0, 60.0  # seconds between two looks, between two signs of life, and after which there is none


class Board(Protocol):
    def take(self, name: str) -> bool:
        """Whether the caller is to make the part: nobody does, or who did is dead."""

    def renew(self, name: str) -> None:
        """A sign of life."""

    def drop(self, name: str) -> None:
        """It could not be made."""

    def add(self, name: str, token: str, start: int, content: bytes) -> None:
        """More of its content, from byte `start` on. token: the maker's own."""

    def complete(self, name: str, token: str) -> None:
        """All of it is there."""

    def size(self, name: str) -> int | None:
        """Bytes of a part; None where it is not there."""

    def read(self, name: str, start: int, size: int) -> bytes: ...


@dataclass(frozen=True)
class FolderBoard:
    """A board in a folder that exists."""

    folder: Path

    def take(self, name: str) -> bool:
        sign = self.folder / f"{name}.taken"
        try:
            sign.open("x").close()
            return True
        except FileExistsError:
            pass
        now = now_on(self.folder)
        try:
            dead = now - sign.stat().st_mtime > LEASE
        except FileNotFoundError:  # it was dropped just now
            return False
        if dead:
            sign.touch()
        return dead

    def renew(self, name: str) -> None:
        (self.folder / f"{name}.taken").touch()

    def drop(self, name: str) -> None:
        (self.folder / f"{name}.taken").unlink(missing_ok=True)

    def add(self, name: str, token: str, start: int, content: bytes) -> None:
        part = self.folder / f"{name}.{token}.part"
        with part.open("r+b" if part.exists() else "wb") as file:
            file.seek(start)
            file.write(content)

    def complete(self, name: str, token: str) -> None:
        (self.folder / f"{name}.{token}.part").replace(self.folder / name)

    def size(self, name: str) -> int | None:
        try:
            return (self.folder / name).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, name: str, start: int, size: int) -> bytes:
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            return file.read(size)


def made_together(board: Board, name: str, parts: Sequence[Callable[[], bytes]]) -> list[bytes]:
    """All parts, in order: those that nobody has made or is making are made here. An error in making one is raised where it arose."""
    found: dict[int, bytes] = {}
    while True:
        waiting = False
        for number, make in enumerate(parts):
            part = f"{name}-{number}"
            if number in found:
                continue
            try:
                content, mine = _read(board, part), False
                mine = content is None and board.take(part)
            except OSError:
                content, mine = None, True
            if mine:
                content = _made(board, part, make)
            if content is None:
                waiting = True
            else:
                found[number] = content
        if not waiting:
            return [found[number] for number in range(len(parts))]
        time.sleep(LOOK)


def _read(board: Board, part: str) -> bytes | None:
    size = board.size(part)
    return None if size is None else b"".join(board.read(part, start, PIECE) for start in range(0, size, PIECE))


def _made(board: Board, part: str, make: Callable[[], bytes]) -> bytes:
    token = f"{os.getpid()}{uuid.uuid4().hex}"

    def renew() -> None:
        with suppress(OSError):
            board.renew(part)

    try:
        with Sign(SIGN, renew):
            content = make()
            with suppress(OSError):
                for start in range(0, max(1, len(content)), PIECE):
                    board.add(part, token, start, content[start : start + PIECE])
                board.complete(part, token)
    except BaseException:
        with suppress(OSError):
            board.drop(part)
        raise
    return content
