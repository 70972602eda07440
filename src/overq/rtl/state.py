"""RowState: what travels along an array row beside the digit's b bits, and what it means there (design, section 1.4)."""

from __future__ import annotations

from dataclasses import dataclass

from overq.spec import Format, Lane, State

SECOND = (State.RANGE, State.PRECISION)  # by kind bit


@dataclass(frozen=True)
class RowState:
    """The state as wires: fewer than its code has, because the rows know each other.

    bit 0  previous  the element uses the weight of the row before (any state but OWN)
    bit 1  fine      PRECISION; only where both second digits fill all b bits (`Format.kind` "pair"): elsewhere the second digit's kind
                     is known, stands in its top bit, or does not matter

    A short second digit that has the row's digit to itself stands where its bits count (`placed`): a high digit of r bits in the top r,
    a fraction in the lowest. The element then shifts it by r instead of b, and tells one kind from the other by nothing.

    A second digit always follows an OWN lane and a MOVED one never does, so MOVED is `previous` here and `previous` in the row before:
    the third state costs no register, only a wire from the element above.
    """

    format: Format

    @property
    def width(self) -> int:
        return (self.format.cascade > 0) + self.has_fine

    @property
    def has_fine(self) -> bool:
        return self.format.kind == "pair"

    @property
    def has_moved(self) -> bool:
        return State.MOVED in self.format.states

    @property
    def placed(self) -> bool:
        """Range alone, or second digits of one bit. (Of longer ones together the element gets no smaller by it: docs/hardware.md.)"""
        return self.one_bit or (self.format.range_on and not self.format.precision_on)

    @property
    def one_bit(self) -> bool:
        """Each bit of the digit then has one place for first digits and moved values, and one for second digits."""
        fmt = self.format
        return fmt.cascade > 0 and not fmt.signed and fmt.range_bits <= 1 and fmt.fraction_bits <= 1

    def wires(self, lane: Lane) -> tuple[int, int]:
        """(what stands on the digit's port, the row bits) of a lane."""
        digit, state = lane
        bits = int(state != State.OWN) | (2 if self.has_fine and state == State.PRECISION else 0)
        if self.placed:
            return digit << (self.format.bits - self.format.range_bits if state == State.RANGE else 0), bits
        if self.format.kind == "digit" and state in SECOND:
            half = self.format.base // 2
            digit = digit % half + (half if state == State.PRECISION else 0)
            digit -= self.format.base if digit > self.format.digit_max else 0
        return digit, bits

    def lane(self, digit: int, bits: int, previous_above: int) -> Lane:
        """The inverse, below a row whose bit 0 is `previous_above`."""
        fmt = self.format
        if not bits & 1:
            return Lane(digit, State.OWN)
        if self.has_moved and previous_above:
            return Lane(digit, State.MOVED)
        if self.placed:
            high = digit >> (fmt.bits - fmt.range_bits)
            return Lane(high, State.RANGE) if high or not fmt.precision_on else Lane(digit, State.PRECISION)
        if fmt.kind == "known":
            return Lane(digit, State.RANGE if fmt.range_on else State.PRECISION)
        if fmt.kind == "pair":
            return Lane(digit, SECOND[bits >> 1])
        half = fmt.base // 2
        payload = digit % half
        return Lane(payload - half if fmt.signed and payload >= half // 2 else payload, SECOND[digit % fmt.base >= half])
