"""SPARQ: sparsity-aware quantization by bit windows and zero pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import array_api_compat
import numpy as np

from overq.errors import FormatError
from overq.methods.method import Array, Cost, Fitted, Method, check_flag, check_integer
from overq.methods.numbers import lanes_of, magnitude, nearest, scaled, with_sign


@dataclass(frozen=True)
class SPARQ(Method):
    """8-bit values, of each only a window of `bits` bits from its leading one on; a value beside a zero uses the zero's bits too.

    Source: Shomron, Gabbay, Kurzum, Weiser, "Post-Training Sparsity-Aware Quantization", NeurIPS 2021 (arXiv 2105.11010), written from
    its description, never from its code. bSPARQ: the window that starts at the most significant one, among `options` allowed
    placements (4 bits: 5opt = shifts 0 … 4, 3opt = 0, 2, 4, 2opt = 0, 4; 3 bits: 6opt; 2 bits: 7opt), the bits below it cut off or
    rounded. vSPARQ: of two neighbouring activations, if one is zero the other gets both budgets.
    Our choices: pairs are lanes 2i and 2i+1, a last odd lane has a zero beside it; both budgets are a window of 2·bits (all 8 bits from
    bits = 4 on), every placement allowed; rounding is to nearest, ties up, and saturates only at the highest placement (else a carry is
    spelled by a higher window); signed values are sign and 7-bit magnitude, the sign taking one bit of the window. Metadata: the
    placement, ceil(log2 options) bits a value, and one bit a pair that says whether it is shared (the placement bits then say by which).
    bits: 2 to 7. options: None is every placement. pairs, rounding: on or off. Step: distance of two 8-bit levels.
    """

    bits: int = 4
    options: int | None = None
    pairs: bool = True
    rounding: bool = True

    def __post_init__(self) -> None:
        check_integer(self, "bits", 2, 7)
        check_flag(self, "pairs", "rounding")
        if self.options is not None:
            check_integer(self, "options", 2, 9 - self.bits)
            if (8 - self.bits) % (self.options - 1) or (8 - self.bits) // (self.options - 1) > self.bits:
                raise FormatError(f"SPARQ.options {self.options}: windows of {self.bits} bits do not lie evenly over 8 bits without gaps")

    @property
    def shifts(self) -> range:
        """Allowed placements of the window: how many low bits it leaves out."""
        return range(0, 9 - self.bits, 1 if self.options is None else (8 - self.bits) // (self.options - 1))

    @property
    def neighbours(self) -> bool:
        return self.pairs

    def decode(self, x: Array, fitted: Fitted, axis: int) -> Array:
        assert fitted.step is not None
        xp = array_api_compat.array_namespace(x)
        narrow, wide = tables(self, fitted.signed)
        value = xp.clip(nearest(scaled(magnitude(x, fitted.signed), fitted.step)), None, float(len(narrow) - 1))
        alone = xp.zeros_like(value, dtype=xp.bool)
        if self.pairs:
            paired = x.shape[axis] // 2 * 2
            even, odd = lanes_of(axis, 0, paired, 2), lanes_of(axis, 1, paired, 2)
            zero = value == 0
            alone[even], alone[odd] = zero[odd], zero[even]
            alone[lanes_of(axis, paired)] = True
        both = xp.asarray(np.concatenate([narrow, wide]), device=array_api_compat.device(x))
        index = xp.astype(value, xp.int64) + xp.astype(alone, xp.int64) * len(narrow)
        y = both[index] * fitted.step
        return with_sign(y, x) if fitted.signed else y

    def count(self, x: Array, fitted: Fitted, axis: int, weight_bits: int) -> Cost:
        return Cost(self.bits, math.ceil(math.log2(len(self.shifts))) + 0.5 * self.pairs, self.bits, weight_bits)

    def describe(self) -> str:
        extra = (", pairs" if self.pairs else "") + (", rounding" if self.rounding else ", trimming")
        return f"SPARQ A{self.bits}, {len(self.shifts)}opt{extra}"


@cache
def tables(method: SPARQ, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """What each 8-bit magnitude becomes (float32): with its own budget, and with both budgets of a pair."""
    bits, width = method.bits, 8 - signed
    own, both = bits - signed, min(width, 2 * bits - signed)
    narrow = [window(value, own, method.shifts, method.rounding) for value in range(2**width)]
    wide = [window(value, both, range(width - both + 1), method.rounding) for value in range(2**width)]
    return np.asarray(narrow, np.float32), np.asarray(wide, np.float32)


def window(value: int, size: int, shifts: range, rounding: bool) -> int:
    """The integer that a window of `size` bits keeps of `value`: the lowest placement that holds its leading one."""
    shift = next(s for s in shifts if value < 1 << (size + s))
    kept = (value + (1 << shift >> 1 if rounding else 0)) >> shift
    if kept == 1 << size and shift == shifts[-1]:
        kept -= 1  # no higher window could spell the carry
    return kept << shift
