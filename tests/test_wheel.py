"""Wheel and sdist hold all that the package needs: built, installed elsewhere without its dependencies' sources, and used."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = (
    "overq/py.typed",
    "overq/study/digits.safetensors",
    "overq/report/web/page.html",
    "overq/report/web/vectors.json",
    "overq/report/web/rules.js",
)


def run(*words: object, cwd: Path) -> str:
    libraries = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}  # of the tests; not overq, which an install there only points to
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, env=libraries)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_wheel_and_sdist_install_and_run_in_an_environment_of_their_own(tmp_path: Path) -> None:
    source, dist, env = tmp_path / "source", tmp_path / "dist", tmp_path / "env"
    listed = run("git", "ls-files", "-z", cwd=ROOT).split("\0") if (ROOT / ".git").exists() else pytest.skip("not a checkout")
    for name in filter(None, listed):
        if (ROOT / name).is_file() and not name.startswith(("studies/results", "benchmarks/results", "docs/img")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = f"import setuptools.build_meta as b; print(b.build_sdist(r'{dist}')); print(b.build_wheel(r'{dist}'))"
    dist.mkdir()
    run(sys.executable, "-c", build, cwd=source)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert set(NEEDED) <= set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        packed = archive.getnames()
    assert all(any(name.endswith(f"src/{needed}") for name in packed) for needed in NEEDED)
    assert not any("tests/" in name for name in zipfile.ZipFile(wheel).namelist())

    run(sys.executable, "-m", "venv", env, cwd=tmp_path)
    python = env / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel, cwd=tmp_path)
    said = run(python, "-c", "import overq, overq.report.html as h; print(overq.__file__); print(len(h.part('page.html')))", cwd=tmp_path)
    assert str(env) in said
    assert run(python, "-m", "overq", "--version", cwd=tmp_path).startswith("overq 0.")
