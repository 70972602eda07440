"""The code hash covers what decides a result and no more; the commit is told with its changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from overq.study import version
from overq.study.version import DECIDES_NOTHING, code_hash, commit, package

DECIDING = ("nn/fit.py", "study/plan.py", "study/models.py", "study/evaluate.py", "calib/mse.py")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in (
        "nn/fit.py",
        "study/plan.py",
        "study/models.py",
        "study/evaluate.py",
        "calib/mse.py",
        "cli/study.py",
        "rtl/pe.py",
        "nn/files.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text('"""Words."""\n\n\ndef f(x):\n    """More."""\n    return x + 1\n')
    return tmp_path


@pytest.mark.parametrize("name", DECIDING)
def test_a_changed_statement_changes_the_hash(source: Path, name: str) -> None:
    before = code_hash(source)
    (source / name).write_text('"""Words."""\n\n\ndef f(x):\n    """More."""\n    return x + 2\n')
    assert code_hash(source) != before


def test_a_new_or_renamed_file_changes_the_hash(source: Path) -> None:
    before = code_hash(source)
    (source / "nn" / "fit.py").rename(source / "nn" / "rivals.py")
    renamed = code_hash(source)
    (source / "methods").mkdir()
    (source / "methods" / "new.py").write_text("")
    assert len({before, renamed, code_hash(source)}) == 3


def test_what_decides_nothing_does_not_change_the_hash(source: Path) -> None:
    before = code_hash(source)
    for name in ("cli/study.py", "rtl/pe.py", "nn/files.py"):
        (source / name).write_text("x = 1\n")
    (source / "study" / "plan.py").write_text('"""Other."""\n# a comment\ndef f(x):\n    """Else."""\n\n    return (x + 1)\n')
    assert code_hash(source) == before


def test_the_list_of_what_decides_nothing_has_no_stale_name() -> None:
    assert [name for name in DECIDES_NOTHING if not (package() / name).exists()] == []


def test_a_cell_runs_without_what_decides_nothing_but_for_what_packages_import() -> None:
    """Of the files left out, a cell imports only these: what `nn/__init__` lists beside what is used, and what never computes."""
    script = "import sys, overq.study.evaluate; print(*[m for m in sys.modules if m.startswith('overq.')])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    names = {m.removeprefix("overq.").replace(".", "/") for m in loaded}
    left_out = {name for name in names if any(name == part.removesuffix(".py") or name.startswith(part + "/") for part in DECIDES_NOTHING)}
    assert left_out <= {"compare", "errors", "records", "nn/files", "study/disk", "study/version"}  # disk: how large a piece travels


def test_the_commit_is_told_and_whether_it_is_changed(tmp_path: Path) -> None:
    assert commit(tmp_path) == "", "no checkout"

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "__init__.py").write_text("")
    commit.cache_clear()
    assert commit(tmp_path) == "", "not of this checkout: nothing is committed"
    git("add", ".")
    git("commit", "-m", "x")
    commit.cache_clear()
    clean = commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "__init__.py").write_text("x = 1\n")
    version.commit.cache_clear()
    assert commit(tmp_path) == clean + "+changes"
