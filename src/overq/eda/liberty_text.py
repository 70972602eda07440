"""Liberty's grammar: text -> nested groups, and back. What the attributes mean is `liberty`'s business.

    group      name ( args ) { statements }
    simple     name : value ;          the value ends at `;`, at the end of its line, or before `}`
    complex    name ( args ) ;         the `;` may be missing
    variable   name = value ;          kept as a simple attribute

Strings may run over several lines, with or without a backslash before the break. Comments are /* … */ and // … A file that includes
another (`include_file`) is refused: what it says is not all in it.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from overq.errors import InputError

MOST_BYTES = 1 << 30  # of an uncompressed file
DEEPEST = 40  # groups within groups
INCLUDES = ("include_file", "include", "#include", "`include")

_STRING = r'"(?:[^"\\]|\\.)*"'
_COMMENT = r"/\*.*?\*/|//[^\n]*"
_WORD = r'(?:\[[^\]\n]*\]|[^\s"{}();,:\\\[/]|/(?![/*]))+'
_TOKEN = re.compile(rf"(?P<skip>[ \t\r\f]+|\\[ \t\r]*\n|{_COMMENT})|(?P<string>{_STRING})|(?P<word>{_WORD})|(?P<mark>[{{}}();,:\n])", re.S)
_OUTLINE = re.compile(rf'{_COMMENT}|{_STRING}|[{{}}"]|/\*|include_file', re.S)
_NUMBER = r"[-+]?[\d.]+(?:[eE][-+]?\d+)?"
_HEADER = re.compile(r"([\w.]+)\s*\(([^(){}]*)\)\s*$")


@dataclass
class Group:
    """`name (args) { … }`; line is where it stands in its file."""

    name: str
    args: list[str]
    line: int = 0
    simple: dict[str, list[str]] = field(default_factory=dict)
    complex: dict[str, list[list[str]]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def first(self, name: str, default: str = "") -> str:
        """A simple attribute's value. Given twice with different values, readers disagree which one counts: refused."""
        values = self.simple.get(name, [default])
        if any(value != values[0] for value in values):
            where = f"{self.name} ({', '.join(self.args)}), line {self.line}"
            raise InputError(f"{where}: {name} is given as {values[0]!r} and as {values[-1]!r}")
        return values[0]

    def arguments(self, name: str) -> list[str] | None:
        """A complex attribute's arguments; None where it is not given. `name : "…"` counts as one argument."""
        if name in self.complex:
            return self.complex[name][-1]
        return [self.first(name)] if name in self.simple else None

    def named(self, *names: str) -> list[Group]:
        return [group for group in self.groups if group.name in names]


class Span(NamedTuple):
    """A group of the library that has not been parsed yet: text[start:end]."""

    name: str
    args: list[str]
    start: int
    end: int


def read(path: Path) -> str:
    """The text of a Liberty file, of which `.gz` ones are unpacked."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            unpacker = zlib.decompressobj(wbits=31)
            content = unpacker.decompress(content, MOST_BYTES)
            if unpacker.unconsumed_tail:
                raise InputError(f"{path} unpacks to more than {MOST_BYTES >> 30} GiB")
            if not unpacker.eof:
                raise InputError(f"{path} is a damaged gzip file: it ends early")
    except OSError as error:
        raise InputError(f"cannot read the Liberty file {path}: {error.strerror}") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is a damaged gzip file: {error}") from error
    return content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")


def outline(text: str, where: str) -> tuple[str, str, list[Span]]:
    """(library name, the statements of the library outside of its groups, its groups), without reading into the groups."""
    depth, mark, head, spans, name = 0, 0, [], [], ""
    start, opened, closed = 0, Span("", [], 0, 0), False
    for match in _OUTLINE.finditer(text):

        def at(match: re.Match[str] = match) -> str:
            return f"{where}, line {line_of(text, match.start())}"

        token = match.group()
        if token in ('"', "/*"):
            raise InputError(f"{at()}: a {'comment' if token == '/*' else 'string'} that never ends")
        if token == "include_file":
            raise InputError(f"{at()}: include_file is not followed; give all files instead")
        if token == "{":
            if depth < 2:
                before = _blank(text[mark : match.start()])
                found = _HEADER.search(before)
                if not found:
                    raise InputError(f"{at()}: a brace without `name (…)` before it")
                args = [arg.strip().strip('"') for arg in found.group(2).split(",") if arg.strip()]
                if depth == 0:
                    if found.group(1) != "library" or closed:
                        what = "a second library" if found.group(1) == "library" else f"a group {found.group(1)!r} outside of a library"
                        raise InputError(f"{at()}: {what}; one library a file is read")
                    name, mark = (args or [""])[0], match.end()
                else:
                    head.append(before[: found.start()])
                    start = mark + found.start()
                    opened = Span(found.group(1), args, start, start)
            depth += 1
        elif token == "}":
            depth -= 1
            if depth < 0:
                raise InputError(f"{at()}: a closing brace too many")
            if depth == 1:
                spans.append(opened._replace(end=match.end()))
                mark = match.end()
            elif depth == 0:
                head.append(_blank(text[mark : match.start()]))
                closed, mark = True, match.end()
    if depth:
        raise InputError(f"{where}: {depth} closing brace{'s' * (depth > 1)} missing at the end")
    return name, "\n".join(head), spans


def _blank(text: str) -> str:
    """Without comments, everything in its place."""
    if "/*" not in text and "//" not in text:
        return text
    return re.sub(
        rf"{_STRING}|{_COMMENT}",
        lambda m: m.group() if m.group()[0] == '"' else re.sub(r"[^\n]", " ", m.group()),
        text,
        flags=re.S,
    )


def line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def parse(text: str, where: str, line: int = 1) -> Group:
    """The one group that `text` is; `line` is the number of its first line, for messages."""
    return _Reader(text, where, line).group()


def statements(text: str, where: str) -> Group:
    """Attributes without a group around them."""
    return parse(f"library () {{ {text}\n}}", where)


class _Reader:
    def __init__(self, text: str, where: str, line: int):
        self.text, self.where, self.line = text, where, line
        self.tokens: list[tuple[str, str, int]] = list(self._lex())
        self.at = 0

    def _lex(self) -> Iterator[tuple[str, str, int]]:
        position, text = 0, self.text
        for match in _TOKEN.finditer(text):
            if match.start() != position:
                break
            position = match.end()
            kind = match.lastgroup
            if kind != "skip":
                yield kind or "", match.group(), match.start()
        if position != len(text):
            self.fail("a string or comment that never ends" if text[position] in '"/' else f"{text[position]!r} is not Liberty", position)
        yield "end", "", len(text)

    def fail(self, what: str, position: int | None = None) -> None:
        position = self.tokens[min(self.at, len(self.tokens) - 1)][2] if position is None else position
        raise InputError(f"{self.where}, line {self.line + line_of(self.text, position) - 1}: {what}")

    def lines(self) -> None:
        """Skip line breaks."""
        while self.tokens[self.at][1] == "\n":
            self.at += 1

    def group(self) -> Group:
        self.lines()
        name = self.tokens[self.at][1]
        self.at += 1
        return self.body(name, self.arguments(), 0)

    def arguments(self) -> list[str]:
        """From `(` to behind `)`."""
        self.lines()
        if self.tokens[self.at][1] != "(":
            self.fail("an opening parenthesis is missing")
        self.at += 1
        args: list[str] = []
        depth = 1
        while True:
            kind, token, _ = self.tokens[self.at]
            if kind == "end" or token in ("{", "}"):
                self.fail("a closing parenthesis is missing")
            self.at += 1
            if token == "(":
                depth += 1
            elif token == ")":
                depth -= 1
                if not depth:
                    return args
            elif token not in (",", "\n"):
                args.append(_unquoted(token) if kind == "string" else token)

    def body(self, name: str, args: list[str], depth: int) -> Group:
        """From `{` to behind `}`."""
        self.lines()
        made = Group(name, args, self.line + line_of(self.text, self.tokens[self.at][2]) - 1)
        if self.tokens[self.at][1] != "{":
            self.fail(f"{name} needs an opening brace")
        if depth > DEEPEST:
            self.fail(f"more than {DEEPEST} groups within each other")
        self.at += 1
        while True:
            kind, token, _ = self.tokens[self.at]
            if token in ("\n", ";"):
                self.at += 1
            elif token == "}":
                self.at += 1
                return made
            elif kind == "word":
                self.statement(made, token, depth)
            else:
                self.fail("the file ends within a group" if kind == "end" else f"{token!r} where an attribute or a group should begin")

    def statement(self, made: Group, name: str, depth: int) -> None:
        if name in INCLUDES:
            self.fail(f"{name} is not followed; give all files instead")
        self.at += 1
        self.lines()
        token = self.tokens[self.at][1]
        if token in (":", "="):
            self.at += 1
            made.simple.setdefault(name, []).append(self.value(name))
        elif token == "(":
            args, behind = self.arguments(), self.at
            self.lines()
            if self.tokens[self.at][1] == "{":
                made.groups.append(self.body(name, args, depth + 1))
            else:
                self.at = behind
                made.complex.setdefault(name, []).append(args)
        else:
            self.fail(f"{name} is neither an attribute nor a group")

    def value(self, name: str) -> str:
        """Up to `;`, the end of the line or the closing brace; parentheses may run over several lines."""
        self.lines()
        parts: list[str] = []
        depth = 0
        while True:
            kind, token, _ = self.tokens[self.at]
            if not depth and token in (";", "\n", "}"):
                break
            if kind == "end" or token in ("{", "}", ";"):
                self.fail(f"the value of {name} does not end")
            if token == ":" and not depth:
                self.fail(f"a second attribute begins before the value of {name} has ended: a `;` is missing")
            depth += (token == "(") - (token == ")")
            if token != "\n":
                parts.append(_unquoted(token) if kind == "string" else token)
            self.at += 1
        if not parts:
            self.fail(f"{name} has no value")
        return " ".join(parts)


def _unquoted(token: str) -> str:
    if "\\" not in token and "\n" not in token:
        return token[1:-1]
    text = re.sub(r"\\[ \t\r]*\n", " ", token[1:-1])
    return re.sub(r"\\(.)", r"\1", text).replace("\n", " ")


def write(group: Group, indent: str = "") -> str:
    """A group as every reader of Liberty takes it: one statement a line, all values quoted, all semicolons there."""
    inner = indent + " "
    lines = [f"{indent}{group.name} ({', '.join(map(_quoted, group.args))}) {{"]
    lines += [f"{inner}{name} : {_quoted(values[-1], bare=_NUMBER)} ;" for name, values in group.simple.items()]
    lines += [f"{inner}{name} ({', '.join(map(_quoted, args))}) ;" for name, each in group.complex.items() for args in each]
    lines += [write(child, inner) for child in group.groups]
    return "\n".join([*lines, indent + "}"])


def _quoted(value: str, bare: str = r"[\w.]+") -> str:
    return value if re.fullmatch(bare, value) else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
