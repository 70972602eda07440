"""Boolean functions as Liberty writes them: `!` and postfix `'` first, then `^`, then `&`, `*` and juxtaposition, then `|` and `+`.

Python's and Verilog's operators bind otherwise (there & is stronger than ^), so a function is parsed and written anew, never passed on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from overq.errors import InputError

# A pin or 0 or 1; or (operator, operands).
Tree = str | tuple[str, tuple["Tree", ...]]
DEEPEST = 100

_TOKEN = re.compile(r"\s*(?:([A-Za-z_][\w.]*(?:\[\w+\])?|\"[^\"]+\"|[01](?!\w))|([!'^&*|+()]))")
_ATOM_FOLLOWS = re.compile(r"[\w\"(!]")


@lru_cache(maxsize=4096)
def parse(function: str) -> Tree:
    """The function's tree. Raises InputError naming the function."""
    tokens, at = [], 0
    while at < len(function.rstrip()):
        match = _TOKEN.match(function, at)
        if not match:
            raise _unreadable(function)
        tokens.append((match.group(1) or match.group(2)).strip('"'))
        at = match.end()
    tree, used = _level(tokens, 0, 0, function, 0)
    if used != len(tokens):
        raise _unreadable(function)
    return tree


_LEVELS: tuple[tuple[str, frozenset[str]], ...] = (("|", frozenset("|+")), ("&", frozenset("&*")), ("^", frozenset("^")))


def _level(tokens: list[str], at: int, level: int, function: str, depth: int) -> tuple[Tree, int]:
    """Operands of the level-th loosest operator."""
    if depth > DEEPEST:
        raise _unreadable(function)
    if level == len(_LEVELS):
        return _factor(tokens, at, function, depth)
    name, signs = _LEVELS[level]
    tree, at = _level(tokens, at, level + 1, function, depth)
    operands = [tree]
    while at < len(tokens) and (tokens[at] in signs or (name == "&" and _ATOM_FOLLOWS.match(tokens[at]))):
        tree, at = _level(tokens, at + (tokens[at] in signs), level + 1, function, depth)
        operands.append(tree)
    return (operands[0] if len(operands) == 1 else (name, tuple(operands))), at


def _factor(tokens: list[str], at: int, function: str, depth: int) -> tuple[Tree, int]:
    inverted = 0
    while at < len(tokens) and tokens[at] == "!":
        inverted, at = inverted + 1, at + 1
    if at >= len(tokens) or tokens[at] in "'^&*|+)":
        raise _unreadable(function)
    if tokens[at] == "(":
        tree, at = _level(tokens, at + 1, 0, function, depth + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise _unreadable(function)
    else:
        tree = tokens[at]
    at += 1
    while at < len(tokens) and tokens[at] == "'":
        inverted, at = inverted + 1, at + 1
    return (("~", (tree,)) if inverted % 2 else tree), at


def names(function: str) -> list[str]:
    """Pins that the function reads, each once, in order."""

    def walk(tree: Tree) -> list[str]:
        return [tree] * (tree not in "01") if isinstance(tree, str) else [name for part in tree[1] for name in walk(part)]

    return list(dict.fromkeys(walk(parse(function))))


def expression(function: str, name: Callable[[str], str] = str, invert: str = "~") -> str:
    """With & | ^ ~ and every operand in parentheses, for Python (bit 0 counts), Verilog and, with `invert` "!", Liberty; `name` turns pins
    into operands."""

    def walk(tree: Tree) -> str:
        if isinstance(tree, str):
            return tree if tree in "01" else name(tree)
        if tree[0] == "~":
            return f"{invert}{walk(tree[1][0])}"
        return f"({f' {tree[0]} '.join(walk(part) for part in tree[1])})"

    return walk(parse(function))


def evaluate(function: str, values: Mapping[str, bool]) -> bool:
    """The function of named pins."""

    def walk(tree: Tree) -> bool:
        if isinstance(tree, str):
            if tree not in "01" and tree not in values:
                raise InputError(f"the Liberty function {function!r} reads {tree!r}, which is no pin")
            return tree == "1" if tree in "01" else bool(values[tree])
        parts = [walk(part) for part in tree[1]]
        return {"~": not parts[0], "&": all(parts), "|": any(parts), "^": sum(parts) % 2 == 1}[tree[0]]

    return walk(parse(function))


def _unreadable(function: str) -> InputError:
    return InputError(f"cannot read the Liberty function {function!r}")
