"""Choice: what an array is built for: a number format of ours, or a rival whose element exists (`rtl.rivals`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from overq import kernels
from overq.errors import InputError
from overq.methods import SPARQ, OliVe
from overq.methods.method import Fitted
from overq.methods.sparq import tables
from overq.rtl.rivals import RIVALS, RivalLane
from overq.sim.code import Code, code_of, code_with
from overq.sim.rates import Shares, counted, fixed
from overq.spec import ArrayConfig, Format


@dataclass(frozen=True)
class Choice:
    """format: of the array's lanes; of a rival, the plain one of the widest value that its lanes spell. method: the rival's."""

    format: Format
    method: SPARQ | OliVe | None = None

    @property
    def label(self) -> str:
        return self.format.label if self.method is None else f"A{self.method.bits} {self.rival}"

    @property
    def rival(self) -> str:
        """Its name in `rtl.rivals`; "" for a format of ours."""
        return "" if self.method is None else type(self.method).__name__

    @cached_property
    def code(self) -> Code:
        """Bits of a value; a rival's come from its method."""
        if self.method is None:
            return code_of(self.format)
        cost = self.method.count(np.zeros((1, 2), np.float32), Fitted(self.method, False, 1.0), -1, 8)
        return code_with(self.method.bits, cost.metadata_bits, 8)

    def signed(self) -> Choice:
        """For layers whose input has negative values."""
        if self.method is not None:
            raise InputError(f"{self.label}: no element of {self.rival} for signed values is built")
        return Choice(self.format.with_(signed=True))

    def on(self, config: ArrayConfig) -> ArrayConfig:
        return config.with_(format=self.format)

    def shares(self, values: np.ndarray, bits: int, rows: int) -> Shares:
        """Of values [..., lanes] in steps of a digit of `bits`, in tiles of `rows`."""
        if self.method is None:
            tile = self.format.with_(lanes=rows)
            return counted(*kernels.get("auto", tile).encode(fixed(values, bits, tile), tile))
        digit, _, other = self.arrays(values.reshape(-1, values.shape[-1]), bits)
        return counted(digit, other)  # a lane that serves its partner is used, whatever it holds

    def lanes(self, values: np.ndarray, bits: int) -> list[list[RivalLane]]:
        """A rival's, of values [vectors, lanes]."""
        parts = (part.tolist() for part in self.arrays(values, bits))
        return [[RivalLane(*lane) for lane in zip(*row, strict=True)] for row in zip(*parts, strict=True)]

    def arrays(self, values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(digit, shift, other) of each of a rival's lanes, integers [vectors, lanes]."""
        if isinstance(self.method, SPARQ):
            return _sparq(self.method, fixed(values, bits, Format.plain(8)) + 1 >> 1)
        assert self.method is not None  # a format of ours has digits and states
        return _olive(self.method, values * 2.0 ** (self.method.bits - bits))


def beside(rivals: Iterable[str], bits: int) -> list[Choice]:
    """Rivals of so many bits, by name."""
    return [_rival(name, bits) for name in rivals]


def _rival(name: str, bits: int) -> Choice:
    if name.lower() not in (rival.lower() for rival in RIVALS):
        raise InputError(f"--rival {name}: no element of it is built, so it has no energy and no area here; there are {', '.join(RIVALS)}")
    if name.lower() == "sparq":
        return Choice(Format.plain(8), SPARQ(bits))
    method = OliVe(bits)
    return Choice(Format.plain(method.numbers(False).greatest.bit_length()), method)


def _sparq(method: SPARQ, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """values: integers 0 … 255. Lanes 2i and 2i+1 are a pair; where one is zero its lane holds the upper part of the other; a last odd lane
    has its own window."""
    narrow, wide = (table.astype(np.int64) for table in tables(method, False))
    high = min(8, 2 * method.bits)
    shift_of, wide_shift_of = _shifts(narrow, method.bits, method.shifts), _shifts(wide, high, range(9 - high))
    kept, shift = narrow[values], shift_of[values]
    digit, other = kept >> shift, np.zeros_like(kept)
    if method.pairs:
        for mine, partner in ((0, 1), (1, 0)):
            pairs = values.shape[-1] // 2
            a, b = (np.s_[:, side : 2 * pairs : 2] for side in (mine, partner))
            alone = (values[b] == 0) & (values[a] != 0)
            both, low = wide[values[a]], wide_shift_of[values[a]]
            window = both >> low
            digit[a] = np.where(alone, window & (2**method.bits - 1), digit[a])
            shift[a] = np.where(alone, low, shift[a])
            digit[b] = np.where(alone, window >> method.bits, digit[b])
            shift[b] = np.where(alone, low + method.bits, shift[b])
            other[b] = np.where(alone, 1, other[b])
    return digit, shift, other


def _shifts(table: np.ndarray, size: int, shifts: Sequence[int]) -> np.ndarray:
    """The lowest placement at which a window of `size` bits spells each entry."""
    found = np.zeros_like(table)
    for shift in reversed(shifts):
        found = np.where((table < 1 << (size + shift)) & (table % (1 << shift) == 0), shift, found)
    return found


def _olive(method: OliVe, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """values in steps of a normal level."""
    numbers = method.numbers(False)
    spelled = Fitted(method, False, 1.0)(values.astype(np.float32)).astype(np.int64)
    shift = np.zeros_like(spelled)
    for place in range(1, 8):
        shift = np.where((spelled > numbers.normal) & (spelled >> place >= 1 << numbers.mantissa), place, shift)
    return spelled >> shift, shift, np.zeros_like(spelled)
