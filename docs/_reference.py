"""What the site's reference is made of: the public names, the command line and the exceptions, as the code has them."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from importlib import resources
from pathlib import Path

HEAD = "<!-- Written by docs/_reference.py; not in the repository. -->\n"


def write(folder: Path) -> None:
    """reference/api.md, reference/cli.md and reference/errors.md below the pages' folder."""
    (folder / "reference").mkdir(exist_ok=True)
    for name, text in {"api": api(), "cli": cli(), "errors": errors()}.items():
        file = folder / "reference" / f"{name}.md"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def api() -> str:
    """Every public name with its signature and its docstring."""
    import overq
    from overq import calib, kernels, methods, spec

    parts = [f"{HEAD}# From Python", "", "What `overq` gives away; each name is imported when it is first used.", ""]
    parts += [line for name in overq.__all__ for line in _entry(f"overq.{name}", getattr(overq, name))]
    for module in (spec, methods, calib, kernels):
        parts += [f"## {module.__name__}", "", _block(module.__doc__ or ""), ""]
        for name in getattr(module, "__all__", ()):
            found = getattr(module, name)
            if inspect.isclass(found) or inspect.isfunction(found):
                parts += _entry(f"{module.__name__}.{name}", found, "###")
    return "\n".join(parts)


def _entry(name: str, found: object, level: str = "##") -> list[str]:
    if not callable(found):
        return []
    try:
        signature = str(inspect.signature(found))
    except (TypeError, ValueError):
        signature = "(…)"
    for path in ("overq.", "collections.abc.", "numpy."):  # the words, not where they live
        signature = signature.replace(path, "")
    lines = [f"{level} {name}", "", f"```text\n{name}{signature}\n```", "", _block(inspect.getdoc(found) or ""), ""]
    if inspect.isclass(found) and not issubclass(found, BaseException):
        for key, method in vars(found).items():
            made = inspect.unwrap(getattr(method, "__func__", method)) if not isinstance(method, property) else method.fget
            if key.startswith("_") or not (inspect.isfunction(made)) or not made.__doc__ or dataclasses.is_dataclass(method):
                continue
            lines += [f"- `{key}`: {' '.join(_plain(made.__doc__.split(chr(10) + chr(10))[0]).split())}"]
        lines.append("")
    return lines


def cli() -> str:
    """`--help` of every command."""
    import typer
    from typer.testing import CliRunner

    from overq.cli import app

    os.environ |= {"TERMINAL_WIDTH": "110", "COLUMNS": "110", "NO_COLOR": "1"}
    command = typer.main.get_command(app)
    names: list[list[str]] = []

    def walk(found: object, path: list[str]) -> None:
        children = getattr(found, "commands", {})
        names.append(path)
        for name in sorted(children):
            walk(children[name], [*path, name])

    walk(command, [])
    parts = [f"{HEAD}# The command line", ""]
    for path in names:
        said = CliRunner().invoke(app, [*path, "--help"], env={"NO_COLOR": "1", "TERM": "dumb"}).output
        parts += [f"## {' '.join(['overq', *path])}", "", f"```text\n{said.strip()}\n```", ""]
    return "\n".join(parts)


def errors() -> str:
    """The tree of what is raised on purpose."""
    from overq import errors as found

    return f"{HEAD}# What is raised\n\n{_block(found.__doc__ or '')}\n"


def explorer(out: Path) -> None:
    """The explorer's script and style, where its page looks for them."""
    web = resources.files("overq.report").joinpath("web")
    static = out / "explorer"
    static.mkdir(exist_ok=True)
    script = "\n".join(web.joinpath(name).read_text(encoding="utf-8") for name in ("rules.js", "tables.js", "explorer.js"))
    values = json.dumps(json.loads(web.joinpath("vectors.json").read_text(encoding="utf-8")))
    (static / "explorer.js").write_text(f"{script}\nmakeExplorer(document.getElementById('explorer-body'), {values});\n", encoding="utf-8")
    (static / "explorer.css").write_text(web.joinpath("explorer.css").read_text(encoding="utf-8"), encoding="utf-8")


def _block(text: str) -> str:
    return f"```text\n{inspect.cleandoc(text)}\n```"


def _plain(text: str) -> str:
    return text.replace("|", r"\|").replace("<", r"\<").replace("*", r"\*").replace("_", r"\_").replace("[", r"\[")
