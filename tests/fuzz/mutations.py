"""What happens to files between the program that wrote them and the one that reads them, and what hands do to them; one seed, one file."""

from __future__ import annotations

import copy
import re
from random import Random
from typing import Any

NUMBERS = ("0", "-1", "1e308", "-1e309", "1e999", "nan", "inf", "99999999999999999999", "0.1", "1_000", "0x10", "٣", "1e-320", "007")
WORDS = (
    "", " ", "\0", "\ufeff", "'", '"', "=1+1", "\x1b[2J", "\u202e", "é", "𝔘", "\r", "\n\n", "\t", "{", "}", "[", "]", "//", "/*", "\\",
    ",", ";", "-", "%s",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 10**30, -(10**30), 0.5, 1e308, float("nan"), float("inf"), "", "x", "4", "\0", "\x1b[2J", "é" * 300,
    [], {}, [[]], [None], {"": 0}, [1, "x"], {"x": {"x": []}},
)  # fmt: skip


def of_bytes(content: bytes, random: Random) -> bytes:
    """Transmission and disks: flipped bits, lost ends and middles, doubled and zeroed blocks."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        if not data:
            return bytes(data)
        at, length = random.randrange(len(data)), random.choice((1, 2, 4, 16, 200))
        kind = random.randrange(7)
        if kind <= 1:
            data[at] ^= 1 << random.randrange(8)
        elif kind == 2:
            data[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = data[at : at + length]
        else:
            data[at : at + length] = bytes(min(length, len(data) - at))
    return bytes(data)


def of_text(content: bytes, random: Random) -> bytes:
    """Hands and editors: numbers and words replaced, lines lost, doubled and swapped; or what happens to bytes."""
    if random.random() < 0.3:
        return of_bytes(content, random)
    text = content.decode()
    lines = text.splitlines(keepends=True)
    at, kind = random.randrange(len(lines)), random.randrange(6)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[random.randrange(len(lines))])
    elif kind == 2:
        other = random.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    else:
        pattern = (r"-?\d+(\.\d+)?", r"[A-Za-z_]+", r'["\[\](){},;:=]')[kind - 3]
        found = list(re.finditer(pattern, text))
        if found:
            match = random.choice(found)
            return (text[: match.start()] + random.choice(NUMBERS + WORDS) + text[match.end() :]).encode()
    return "".join(lines).encode()


def of_json(content: Any, random: Random) -> Any:
    """Programs of another version: a key missing, unknown or doubled under another name, a value of another type or size."""
    data = copy.deepcopy(content)
    places = list(_places(data))
    if not places:
        return copy.deepcopy(random.choice(VALUES))
    for _ in range(random.choice((1, 1, 2))):
        holder, key = random.choice(places)
        if key not in (holder if isinstance(holder, dict) else range(len(holder))):
            continue  # gone with an earlier change
        kind = random.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[f"{key}{random.choice(WORDS)}x"] = holder[key]
        elif kind == 2 and isinstance(holder, list):
            holder.insert(key, holder[random.randrange(len(holder))])
        else:
            holder[key] = copy.deepcopy(random.choice(VALUES))
    return data


def _places(data: Any) -> Any:
    keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in list(keys):
        yield data, key
        yield from _places(data[key])
