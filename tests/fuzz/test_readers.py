"""The property: whatever a file holds, reading it succeeds or ends in one line and exit code 2. Never another error, never a hang.

Damage is drawn with a fixed seed; a failure names reader and number, and `damaged(name, number)` gives the file again.
"""

from __future__ import annotations

import random
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from readers import READERS

from overq import cli

PATIENCE = 30  # seconds for one small file


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a stale .pyc would stand for a model file of equal length


def damaged(name: str, content: bytes, number: int) -> bytes:
    return READERS[name].damage(content, random.Random(f"{name} {number}"))


def ends(name: str, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of the command line where its command reads the file."""

    def too_long(*_: object) -> None:
        raise SystemExit(124)

    monkeypatch.setattr(cli, "_command", lambda: READERS[name].read(path))
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(PATIENCE)
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0), capsys.readouterr().err
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    raise AssertionError("main always exits")


def check(name: str, numbers: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Counter[int]:
    path = READERS[name].make(tmp_path)
    content = path.read_bytes()
    assert ends(name, path, monkeypatch, capsys)[0] == 0, "what is not damaged is read"
    codes: Counter[int] = Counter()
    for number in numbers:
        path.write_bytes(damaged(name, content, number))
        code, said = ends(name, path, monkeypatch, capsys)
        assert code in (0, 2), f"{name} {number}: exit code {code}: {said}"
        lines = said.splitlines()
        assert all(line.startswith("overq: ") and line.isprintable() for line in lines), f"{name} {number}: {said}"
        assert sum(not line.startswith("overq: warning: ") for line in lines) == (code == 2), f"{name} {number}: {said}"
        codes[code] += 1
    return codes


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_in_one_line(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    assert check(name, range(8), tmp_path, monkeypatch, capsys).total() == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_ten_thousand_damaged_files(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    codes = check(name, range(8, 8 + -(-10_000 // len(READERS))), tmp_path, monkeypatch, capsys)
    assert codes[2], "some damage must show"
