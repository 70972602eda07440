"""Which second digits a layer may take on a given array: `Recipe(range_bits="auto")`.

The array is built for the recipe's format. A layer's range_bits r and fraction_bits f may differ from it where that costs the array
nothing but shifts that can be set: the state takes no more bits a lane, and sums need no more bits. So with r = f = b - 1 (one state
bit, sums of b + r + f bits a value) a layer may as well use range alone with r = b, or fractions alone with f = b. Splits of which
another has no fewer bits of either kind are left out: they spell less.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from overq.methods import Dynamic, Method, OverQ
from overq.spec import Format, accumulator_bits

WEIGHT_BITS, DEPTH = 8, 64  # of the sums that are compared; which of two formats has the wider ones does not depend on them


def splits(method: Method, signed: bool) -> list[Method]:
    """The method, which is OverQ or has OverQ's dynamic steps, with each of the second digits that it may take: its own first."""
    if isinstance(method, Dynamic):
        return [replace(method, of=of) for of in splits(method.of, signed)]
    assert isinstance(method, OverQ)
    own = method.format(signed)
    others = [fmt for fmt in formats(own) if fmt != own]
    return [method, *(replace(method, range_bits=fmt.range_bits, fraction_bits=fmt.fraction_bits) for fmt in others)]


def formats(own: Format) -> list[Format]:
    """Formats like `own` with the second digits that its array can hold, but for those that spell less than another."""
    pairs = [(r, f) for r, f in product(range(own.bits + 1), repeat=2) if (r or f) and not (own.signed and r == 1)]
    evict = own.evict
    made = [Format(own.bits, own.cascade, r, f, own.policy, own.signed, own.lanes, evict if r else 0) for r, f in pairs]
    sums = accumulator_bits(own, WEIGHT_BITS, DEPTH)
    held = [fmt for fmt in made if fmt.state_bits <= own.state_bits and accumulator_bits(fmt, WEIGHT_BITS, DEPTH) <= sums]
    return [fmt for fmt in held if not any(_more(other, fmt) for other in held)]


def _more(a: Format, b: Format) -> bool:
    return a != b and a.range_bits >= b.range_bits and a.fraction_bits >= b.fraction_bits
