"""The output stage's rule: a finished sum becomes the next layer's t (design, section 2). One rule for integer networks, RTL and tests.

    y = (sum · multiplier + bias) >> shift          per output channel, then clamped

multiplier is unsigned, bias carries the layer's bias and the rounding, the shift is arithmetic: it rounds down, as t = floor(x · ρ) does.
"""

from __future__ import annotations

import math

from overq.errors import FormatError
from overq.spec.format import Format

MULTIPLIER_BITS = 16
SHIFT_BITS = 6
MAX_SHIFT = (1 << SHIFT_BITS) - 2


def bias_bits(sum_bits: int) -> int:
    """Two's complement bits of any bias that can matter: as wide as sum · multiplier."""
    return sum_bits + MULTIPLIER_BITS


def requantize(total: int, multiplier: int, bias: int, shift: int, low: int, high: int) -> int:
    """What one column computes."""
    return max(low, min(high, (total * multiplier + bias) >> shift))


def limits(fmt: Format, relu: bool) -> tuple[int, int]:
    """Least and greatest t of the next format; with ReLU the least is 0, so an unsigned format needs no ReLU of its own."""
    return (max(fmt.t_min, 0) if relu else fmt.t_min), fmt.t_max


def constants(factor: float, offset: float, sum_bits: int) -> tuple[int, int, int]:
    """(multiplier, bias, shift) nearest to y = floor(sum · factor + offset), factor >= 0.

    The multiplier is rounded to 16 significant bits (relative error at most 2^-16). Where a huge offset would not fit into
    `bias_bits`, the multiplier gives up some of its own; an offset beyond even that saturates the result anyway.
    """
    limit = (1 << (bias_bits(sum_bits) - 1)) - 1
    if not (math.isfinite(factor) and math.isfinite(offset) and 0 <= factor < 1 << MULTIPLIER_BITS):
        raise FormatError(f"a factor of {factor:.4g} (offset {offset:.4g}) cannot be a {MULTIPLIER_BITS}-bit multiplier and a right shift")
    shift = min(MULTIPLIER_BITS - 1 - math.floor(math.log2(factor)), MAX_SHIFT) if factor else MULTIPLIER_BITS
    while shift and abs(offset) * 2.0**shift > limit:
        shift -= 1
    multiplier = min(round(factor * 2.0**shift), (1 << MULTIPLIER_BITS) - 1)
    return multiplier, max(-limit, min(limit, round(offset * 2.0**shift))), shift
