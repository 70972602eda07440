"""How a command ends when it cannot go on: one line or none, never a traceback, whatever stands at the other end of the pipe."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

import overq
from overq import Format, cli, kernels, overwrite
from overq.cli.progress import prepare_kernels, progress

INTERRUPTED_AT_IMPORT = """
import os, signal, sys

class Finder:  # presses Ctrl-C when a module is first asked for
    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and not sys.flags.interactive:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.argv = ["overq", "evaluate", "--limit", "20"]
from overq.__main__ import main
main()
"""


def python(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output="stdout" not in options, text=True, timeout=120, **options)


@pytest.mark.parametrize("module", ["overq.cli", "typer", "numpy", "overq.study.accuracy"])
def test_control_c_while_importing_is_one_line(module: str) -> None:
    ended = python("-c", INTERRUPTED_AT_IMPORT.format(module=module))
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "overq: interrupted\n")


MODEL = """
import os, signal
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        {what}
        return x.mean((2, 3))

def net(): return Net()
"""


CONV = """nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 3, 3)

    def __call__(self, x):
        return super().__call__(self.c(self.b(self.a(x).relu()).relu()))
"""


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / name / f"{i}.png")
    return ["--images", f"{tmp_path}/images", "--resize", "0", "--crop", "0", "--samples", "1"]


def evaluated(tmp_path: Path, images: list[str], what: str) -> list[str]:
    """The words of a command whose network does `what` when it runs."""
    (tmp_path / "nets.py").write_text(MODEL.format(what=what))
    return ["evaluate", "--model", f"{tmp_path}/nets.py:net", *images]


SWALLOWED = (
    "exec('try: os.kill(os.getpid(), signal.SIGINT)\\nexcept BaseException: pass'); import time; time.sleep(60)",
    "exec('class A:\\n def __del__(self): os.kill(os.getpid(), signal.SIGINT)\\nA()'); import time; time.sleep(60)",
)


@pytest.mark.parametrize("swallowed", SWALLOWED, ids=["by a library", "by the interpreter"])
def test_control_c_that_is_swallowed_is_pressed_again(tmp_path: Path, images: list[str], swallowed: str) -> None:
    ended = python("-m", "overq", *evaluated(tmp_path, images, swallowed))
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "overq: interrupted\n")


@pytest.mark.parametrize(
    ("what", "code", "line"),
    [
        ("raise KeyboardInterrupt", 130, "overq: interrupted\n"),
        ("raise MemoryError", 2, "overq: out of memory: smaller batches, fewer samples or smaller images may fit\n"),
        ("import torch; torch.empty(2**60)", 2, "overq: out of memory: smaller batches, fewer samples or smaller images may fit\n"),
    ],
)
def test_control_c_and_exhausted_memory_while_running(tmp_path: Path, images, what, code, line, capsys, monkeypatch) -> None:
    kernels.prepare()
    monkeypatch.setattr(sys, "argv", ["overq", *evaluated(tmp_path, images, what)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, *capsys.readouterr()) == (code, "", line)


def test_a_reader_that_leaves_and_a_full_disk() -> None:
    help_ = [sys.executable, "-m", "overq", "evaluate", "--help"]
    with subprocess.Popen(help_, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.close()  # as `head` does when it has enough
        assert writer.stderr is not None
        assert writer.stderr.read() == ""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(help_, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (2, "overq: No space left on device\n")


TWICE = ("-m", "overq", "evaluate", "--json", "µ", "--csv", "µ")


def test_terminals_that_know_ascii_only_and_closed_streams() -> None:
    ended = python(*TWICE, env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)})
    assert (ended.returncode, ended.stderr) == (2, "overq: two outputs go to \\xb5: give each its own\n")
    closed = subprocess.run(["sh", "-c", f"{sys.executable} -m overq --help >&-"], capture_output=True, text=True, timeout=120)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_escapes_in_arguments_do_not_reach_the_terminal() -> None:
    ended = python(*(word.replace("µ", "\x1b[2J\n\u202ex") for word in TWICE))
    assert ended.stderr == "overq: two outputs go to \\x1b[2J \\u202ex: give each its own\n"


def test_usage_errors_are_one_line_too() -> None:
    ended = python("-m", "overq", "rtl")
    assert (ended.returncode, ended.stderr) == (2, "overq: Missing option '--out': see overq rtl --help\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str) -> None:
    asked = {"bash": {"COMP_WORDS": "overq ev", "COMP_CWORD": "1"}}.get(shell, {"_TYPER_COMPLETE_ARGS": "overq ev"})
    asked |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_OVERQ_COMPLETE": f"complete_{shell}", "PYTHONPATH": ":".join(sys.path)}
    ended = python("-m", "overq", env=asked)
    assert "evaluate" in ended.stdout


def test_what_a_network_prints_is_no_result(tmp_path: Path, images: list[str], capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.prepare()
    (tmp_path / "nets.py").write_text("print('at import')\n" + MODEL.format(what="print('at run')").replace("nn.Module):", CONV))
    words = "evaluate", "--model", f"{tmp_path}/nets.py:net", *images, "--bits", "", "--plain-bits", "8", "--json", "-"
    monkeypatch.setattr(sys, "argv", ["overq", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    assert ended.value.code == 0, shown.err
    assert len(json.loads(shown.out)["results"]) == 2
    assert "at import\n" in shown.err
    assert "at run\n" in shown.err


def test_every_command_shows_an_example_that_parses() -> None:
    command = typer.main.get_command(cli.app)
    leaves = [(name, leaf) for name, leaf in command.commands.items() if not hasattr(leaf, "commands")]
    leaves += [
        (f"{name} {below}", leaf) for name, group in command.commands.items() for below, leaf in getattr(group, "commands", {}).items()
    ]
    assert len(leaves) >= 11
    for name, leaf in leaves:
        example = (leaf.epilog or "").removeprefix("Example: ")
        assert example.startswith(f"overq {name} "), name
        leaf.make_context(name, shlex.split(example)[1 + len(name.split()) :])  # refuses what does not exist


DOCS = Path(__file__).parents[1]
PAGES = [*(DOCS / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((DOCS / "docs").glob("**/*.md"))]
FENCED = re.compile(r"^```(?:bash)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_command_of_the_pages_parses() -> None:
    """Each line of a block that begins with `overq`: the command and its options exist; `…` and what follows # are not read."""
    command, count = typer.main.get_command(cli.app), 0
    for page in PAGES:
        blocks = FENCED.findall(page.read_text(encoding="utf-8"))
        for line in (line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()):
            if not line.startswith("overq ") or "…" in line:
                continue
            leaf, rest, count = command, shlex.split(line, comments=True)[1:], count + 1
            while hasattr(leaf, "commands") and rest and not rest[0].startswith("-"):
                leaf, rest = leaf.commands[rest[0]], rest[1:]
            try:
                leaf.make_context(str(leaf.name), rest)
            except typer.Exit:  # --version, --help
                pass
            except Exception as error:
                raise AssertionError(f"{page.name}: {line}: {error}") from error
    assert count > 25


def test_every_command_with_results_writes_them_as_json() -> None:
    command = typer.main.get_command(cli.app)
    leaves = [command.commands[name] for name in ("evaluate", "sensitivity", "cycles", "shapes", "synth", "inspect")]
    leaves += [command.commands["study"].commands[name] for name in ("show", "compare")]
    for leaf in leaves:
        (option,) = (each for each in leaf.params if "--json" in each.opts)
        assert "- is standard output" in option.help, leaf.name


def test_version_says_which_kernels_can_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["overq", "--version"])
    with pytest.raises(SystemExit):
        cli.main()
    first, *backends = capsys.readouterr().out.splitlines()
    assert first == f"overq {overq.__version__}"
    assert [line.split(":")[0] for line in backends] == [f"kernels {name}" for name in kernels.BACKENDS]
    assert "kernels array: ready" in backends


def test_kernels_are_compiled_before_the_clock_starts_and_that_is_said(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    done: list[str] = []
    monkeypatch.setattr(kernels, "prepared", lambda device: False)
    monkeypatch.setattr(kernels, "prepare", done.append)
    prepare_kernels("cpu")
    assert capsys.readouterr().err == "overq: compiling the kernels for this machine, once: 5 to 10 seconds\n"
    monkeypatch.setattr(kernels, "prepared", lambda device: True)
    prepare_kernels("cuda:1")
    assert capsys.readouterr().err == ""
    assert done == ["cpu", "cuda"]


def test_prepared_kernels_need_no_compiling() -> None:
    kernels.prepare()
    assert kernels.prepared()
    if kernels.chosen() == "numba":
        from overq.kernels import compiled

        before = len(compiled.lanes_inside.signatures), len(compiled.lanes_outside.signatures)
        overwrite(torch.randn(2, 8, 3, 3), 0.1, Format())
        overwrite(torch.randn(2, 8), 0.1, Format(3, 2))
        assert (len(compiled.lanes_inside.signatures), len(compiled.lanes_outside.signatures)) == before


def test_a_terminal_sees_a_bar_for_each_stage_and_a_pipe_sees_nothing(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def stages() -> str:
        with progress() as update:
            for what, count in (("calibration", 2), ("A4 [/x]", 4)):
                for done in range(count + 1):
                    update(what, done, count)
        return capsys.readouterr().err

    assert stages() == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    shown = stages()
    assert "calibration" in shown
    assert "A4 [/x]" in shown


def test_nothing_is_coloured_in_a_pipe() -> None:
    assert "\x1b" not in python("-m", "overq", "evaluate", "--help").stdout
