"""Which fields of a format files of other tools can say: a field that is new to them is refused by name, never dropped."""

from __future__ import annotations

from dataclasses import fields

from overq.errors import FormatError
from overq.spec import Format

KNOWN = ("bits", "cascade", "range_bits", "fraction_bits", "policy", "signed", "lanes", "evict")


def check_fields(fmt: Format, why: str, where: str = "") -> None:
    """FormatError "<where>Format.<field>=<value> <why>" for a format with fields, other than their defaults, that no file says."""
    for field in fields(fmt):
        if field.name not in KNOWN and getattr(fmt, field.name) != field.default:
            raise FormatError(f"{where}Format.{field.name}={getattr(fmt, field.name)!r} {why}")
