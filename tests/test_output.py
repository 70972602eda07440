"""Writing: whole or not at all; devices, pipes and links stay what they are; the same for every command and for `overq.save`."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import overq
from overq.errors import InputError
from overq.output import check_outputs, staged, write, write_all
from overq.text import cell, csv_text, visible


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As on a full disk: no file of this process can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write(path, "old")
    path.chmod(0o640)
    write(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode), left(tmp_path)) == ("new", 0o640, ["r.csv"])
    mask = os.umask(0o027)
    try:
        write(tmp_path / "s.csv", b"\0\n")
    finally:
        os.umask(mask)
    assert ((tmp_path / "s.csv").read_bytes(), stat.S_IMODE((tmp_path / "s.csv").stat().st_mode)) == (b"\0\n", 0o640)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "r.csv", "old")
    with largest_file(1000), pytest.raises(InputError, match=f"^cannot write {tmp_path}/r.csv: File too large$"):
        write(tmp_path / "r.csv", "x" * 5000)
    assert ((tmp_path / "r.csv").read_text(), left(tmp_path)) == ("old", ["r.csv"])
    with largest_file(1000), pytest.raises(InputError, match="File too large$"):
        write_all(tmp_path, {"r.csv": "new", "a.v": "module", "b.v": "x" * 5000})
    assert ((tmp_path / "r.csv").read_text(), left(tmp_path)) == ("old", ["r.csv"])
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "r.csv") as temporary:
        temporary.write_text(f"half {1 // 0}")
    assert ((tmp_path / "r.csv").read_text(), left(tmp_path)) == ("old", ["r.csv"])


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/r.csv")
    write(tmp_path / "link", "first")  # nothing there yet
    write(tmp_path / "link", "second")
    assert (tmp_path / "link").is_symlink()
    assert ((tmp_path / "there" / "r.csv").read_text(), left(tmp_path / "there")) == ("second", ["r.csv"])
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=f"^cannot write {tmp_path}/loop: "):
        write(tmp_path / "loop", "")


def test_devices_are_written_to_and_stay(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device needs rights that this user has not")
    check_outputs(device)
    try:
        write(device, "gone")
    except InputError as error:
        if "denied" in str(error):
            pytest.skip("devices cannot be used in this folder")
        raise
    assert stat.S_ISCHR(device.stat().st_mode)
    assert left(tmp_path) == ["null"]
    write(Path("/dev/null"), "gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(InputError, match="^cannot write /dev/full: No space left on device$"):
        write(Path("/dev/full"), "x")


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    write(tmp_path / "pipe", "x" * 200_000)
    reader.join(20)
    assert got == ["x" * 200_000]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_any_name(tmp_path: Path, name: str) -> None:
    code = f"from pathlib import Path; from overq.output import write; print('before'); write(Path({name!r}), 'x,y\\n'); print('after')"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert piped.stdout == "before\nx,y\nafter\n"
    with (tmp_path / "out").open("a") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "before\nx,y\nafter\n"


def test_what_cannot_be_written_is_refused_before_work_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for path, words in (
        (tmp_path, "it is a folder"),
        (tmp_path / "file" / "r.csv", "Not a directory"),
        (tmp_path / "file" / "more" / "r.csv", "(Not a directory|File exists)"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "a\0b", "embedded null byte"),
        (Path("/proc/nothing/r.csv"), ""),
    ):
        with pytest.raises(InputError, match=f"^cannot write .*{words}$"):
            check_outputs(path)
    with pytest.raises(InputError, match=f"^two outputs go to {tmp_path}/a: give each its own$"):
        check_outputs(tmp_path / "a", None, tmp_path / "a")
    with pytest.raises(InputError, match="^two outputs go to -: give each its own$"):
        check_outputs(Path("-"), Path("-"))
    check_outputs(None, Path("-"), tmp_path / "new" / "r.csv")
    assert (tmp_path / "new").is_dir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who may write everywhere
    with pytest.raises(InputError, match="^cannot write .*/file: it is read-only$"):
        check_outputs(tmp_path / "file")
    with pytest.raises(InputError, match="nothing may be written to the folder"):
        check_outputs(tmp_path / "free")


def quantized() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    return overq.quantize(model, torch.randn(16, 8), overq.Recipe())


def test_save_writes_like_everything_else(tmp_path: Path) -> None:
    model, path = quantized(), tmp_path / "m.safetensors"
    overq.save(model, path)
    assert (stat.S_IMODE(path.stat().st_mode), left(tmp_path)) == (0o666 & ~_umask(), ["m.safetensors"])
    old = path.read_bytes()
    with largest_file(1000), pytest.raises(InputError, match=f"^cannot write {path}: .*File too large"):
        overq.save(model, path)
    assert (path.read_bytes(), left(tmp_path)) == (old, ["m.safetensors"])
    (tmp_path / "link").symlink_to(path)
    overq.save(model, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    overq.save(model, "/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    overq.save(model, tmp_path / "pipe")
    (tmp_path / "copy").write_bytes(reader.communicate(timeout=20)[0])
    with safe_open(tmp_path / "copy", framework="pt") as file:
        assert json.loads(file.metadata()["overq"])["version"]
    with pytest.raises(InputError, match="it is a folder$"):
        overq.save(model, tmp_path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("layer1.0.conv1", "layer1.0.conv1"),
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "'  =1"),
        ("＝1", "'＝1"),
        ("\t=1", "\\t=1"),
        ("-0.5", "-0.5"),
        ("\x1b[2Jx", "\\x1b[2Jx"),
        ("a\nb\rc", "a\\nb\\rc"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202ecod", "\\u202ecod"),
        ("\udcff", "\\udcff"),
        ("µm² ×", "µm² ×"),
    ],
)
def test_names_act_neither_in_a_spreadsheet_nor_on_a_terminal(name: str, shown: str) -> None:
    assert cell(name) == shown
    assert visible(name) == shown.removeprefix("'")
    assert csv_text(["a", "b"], [{"a": name, "b": -1.5}]).encode().count(b"\n") == 2


def test_tables_take_brackets_and_colons_for_what_they_are() -> None:
    model = nn.ModuleDict({"[/red]": nn.Linear(4, 8), ":smile:": nn.ReLU(), "\x1b[31m": nn.Linear(8, 8), "last": nn.Linear(8, 2)})
    chain = nn.Sequential()
    for name, module in model.items():
        chain.add_module(name, module)
    text = str(overq.summary(overq.quantize(chain, torch.randn(8, 4), overq.Recipe())))
    assert "[/red]" in text
    assert "\\x1b[31m" in text
    assert "\x1b" not in text
