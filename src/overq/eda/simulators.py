"""Run an emitted testbench with Icarus Verilog or Verilator, where they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from overq.errors import ToolError

SIMULATORS = ("iverilog", "verilator")


def available() -> list[str]:
    """The simulators found on the PATH."""
    return [name for name in SIMULATORS if shutil.which(name)]


def version(name: str) -> str:
    """First words of what the tool says of itself."""
    flag = "-V" if name == "iverilog" else "--version"
    done = subprocess.run([name, flag], capture_output=True, text=True, check=False)
    found = re.search(r"(Icarus Verilog version|Verilator) [\d.]+", done.stdout)
    return found.group() if found else name


def simulate(name: str, folder: Path, top: str = "testbench") -> str:
    """Compile the .v files of `folder`, its .sv files as assertions, and run the module `top`; returns the verdict line, which starts with
    PASS or FAIL. An assertion that fails is a FAIL, too."""
    if name not in SIMULATORS:
        raise ToolError(f"no simulator {name!r}; known: {', '.join(SIMULATORS)}")
    if shutil.which(name) is None:
        raise ToolError(f"{name} not found on the PATH (Debian: apt-get install {name})")
    checks = sorted(folder.glob("*.sv"))
    sources = [str(path.resolve()) for path in (*sorted(folder.glob("*.v")), *checks)]
    defines = ["-DOVERQ_ASSERT"] if checks else []
    with tempfile.TemporaryDirectory(prefix="overq-sim-") as build:
        if name == "iverilog":
            _run(name, ["iverilog", "-g2012" if checks else "-g2001", *defines, "-s", top, "-o", f"{build}/sim", *sources], folder)
            output = _run(name, ["vvp", "-n", f"{build}/sim"], folder)
        else:
            options = ["--binary", "--timing", "-Wno-fatal", "-Wno-lint", "-Wno-style", "--top-module", top, "-Mdir", build]
            _run(name, ["verilator", *options, "--assert", *defines, *sources], folder)
            output = _run(name, [f"{build}/V{top}"], folder)
    broken = [line for line in output.splitlines() if re.search(r"\w+\.sv:\d+", line)]
    if broken:
        return f"FAIL: {broken[0].strip()}"
    verdicts = [line for line in output.splitlines() if line.startswith(("PASS", "FAIL"))]
    if not verdicts:
        raise ToolError(f"{name}: the testbench gave no verdict; last output: {output.strip().splitlines()[-1:]}")
    return verdicts[-1]


def _run(name: str, command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise ToolError(f"{name} failed: {lines[0] if lines else 'no output'}")
    return done.stdout
