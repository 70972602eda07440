"""The one way in which this package writes: whole or not at all, and never in place of what is not a regular file.

- a regular file, or a name that is free: a neighbour is written, then renamed, so a failed write leaves what was there
- a link: its target is written, the link stays
- a device, a pipe, /dev/stdout or /dev/fd/N: written to, as the shell does; a folder: refused
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from overq.errors import InputError

STANDARD_OUTPUT = Path("-")
_DESCRIPTORS = ("/dev/fd/", "/dev/stdout", "/dev/stderr", "/proc/self/fd/")  # already open: written on from where they stand


def check_outputs(*paths: Path | None) -> None:
    """Refuse what could not be written before work starts, and two outputs of one name; make parent folders. None is no output."""
    given = [path for path in paths if path is not None]
    for i, path in enumerate(given):
        if path in given[:i] and path != Path(os.devnull):
            raise InputError(f"two outputs go to {path}: give each its own")
        if path == STANDARD_OUTPUT:
            continue
        with _one_line(path):
            target = _target(path)
            if target is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                if not os.access(target.parent, os.W_OK):
                    raise InputError(f"cannot write {path}: nothing may be written to the folder {target.parent}")


def write(path: Path, content: str | bytes) -> None:
    """One file; - is standard output."""
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    if path == STANDARD_OUTPUT:
        with _one_line(path):
            _print(data)
        return
    with staged(path) as temporary:
        temporary.write_bytes(data)


def write_all(folder: Path, contents: Mapping[str, str]) -> list[Path]:
    """Several files of one folder, which is made where it is missing: all of them or none."""
    with _one_line(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for name, content in contents.items():
            stack.enter_context(staged(folder / name)).write_text(content, encoding="utf-8")
    return [folder / name for name in contents]


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A new empty file to fill; when the block ends well it takes the place of `path`, or is copied to the device that `path` is.

    Raises InputError in one line where anything of it cannot be done; nothing is left behind then.
    """
    with _one_line(path):
        target = _target(path)
        temporary = (Path(tempfile.gettempdir()) if target is None else target.parent) / f".overq-{secrets.token_hex(8)}.part"
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = stat.S_IMODE(temporary.stat().st_mode)
        try:
            yield temporary
            if target is None:
                _copy(temporary, path)
            else:
                _keep(temporary, target, mode)
        finally:
            temporary.unlink(missing_ok=True)


def _target(path: Path) -> Path | None:
    """The regular file to replace, links followed; None for what is written to in place. InputError for a folder or a read-only file."""
    if str(path).startswith(_DESCRIPTORS):
        return None
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))
    if stat.S_ISDIR(mode):
        raise InputError(f"cannot write {path}: it is a folder")
    if not stat.S_ISREG(mode):
        return None
    if not os.access(path, os.W_OK):
        raise InputError(f"cannot write {path}: it is read-only")
    return Path(os.path.realpath(path))


def _keep(temporary: Path, target: Path, mode: int) -> None:
    """Put the file in its place, on the disk and with the mode and owner of what was there; `mode` where nothing was."""
    handle = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(handle)  # a disk may notice only now that it is full
    finally:
        os.close(handle)
    temporary.chmod(mode)  # whoever filled it may have made another one
    with suppress(FileNotFoundError):
        before = target.stat()
        temporary.chmod(stat.S_IMODE(before.st_mode))
        if (before.st_uid, before.st_gid) != (temporary.stat().st_uid, temporary.stat().st_gid):
            with suppress(PermissionError):
                os.chown(temporary, before.st_uid, before.st_gid)
    temporary.replace(target)


def _copy(temporary: Path, path: Path) -> None:
    if sys.stdout is not None:
        sys.stdout.flush()  # what was printed before comes first
    with temporary.open("rb") as source, os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as out:
        shutil.copyfileobj(source, out)


def _print(data: bytes) -> None:
    if sys.stdout is None:
        raise InputError("cannot write -: standard output is closed")
    sys.stdout.flush()  # what was printed before comes first
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(data)
    else:  # a notebook's
        sys.stdout.write(data.decode())
    sys.stdout.flush()


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """What the system refuses, as InputError; a pipe whose reader left stays what it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
