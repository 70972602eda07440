"""Write the part of docs/methods.md that says which methods there are, from their classes: python scripts/methods_page.py"""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np

from overq.methods import METHODS, Method

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
BEGIN, END = "<!-- methods -->\n", "<!-- end -->"
WIDTH = 118


def sample() -> np.ndarray:
    """Float32 [positions, channels], like a ReLU's output; the page's first example has the same."""
    rng = np.random.default_rng(0)
    return np.maximum(rng.laplace(size=(2000, 64)) * np.exp(rng.normal(size=64)), 0).astype(np.float32)


def table(x: np.ndarray) -> list[str]:
    """What each method is, and what a value costs with the parameters left out."""
    lines = ["| name | in a sentence | payload | metadata | extra lanes |", "| --- | --- | ---: | ---: | ---: |"]
    for name, method in METHODS.items():
        cost = method().fit(x, signed=False).cost(x)
        first = documentation(method).split("\n\n")[0]
        lines.append(f"| `{name}` | {first} | {cost.payload_bits:.4g} | {cost.metadata_bits:.4g} | {cost.extra_lanes:.4g} |")
    return lines


def section(name: str, method: type[Method]) -> list[str]:
    """Its parameters, and its docstring: source, and what was chosen where that is silent."""
    given = ", ".join(f"`{f.name}{'' if f.default is MISSING else f'={f.default!r}'}`" for f in fields(method)) or "none"
    about = documentation(method).partition("\n\n")[2]
    text = f"Parameters: {given}. {about}".replace("\nOur choices:", "\n\nOur choices:")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    return [f"### `{name}`", *(line for text in paragraphs for line in ("", *wrapped(text)))]


def documentation(method: type[Method]) -> str:
    return inspect.cleandoc(method.__doc__ or "")


def wrapped(text: str) -> list[str]:
    """Lines, none of which begins with a sign: Markdown would take it for a list."""
    for sign in "+-":
        text = text.replace(f" {sign} ", f"\0{sign} ")
    lines = textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def part() -> str:
    """All of it, in Markdown."""
    blocks = [table(sample()), *(section(name, method) for name, method in METHODS.items())]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def made(text: str) -> str:
    """The page with that part made anew."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}{part()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
