"""The packed layout of lanes: how digits and states lie on a bus or a disk, bit by bit.

One lane is one field of b + s bits, s = Format.state_bits:

    bit 0 … b-1        the digit; two's complement in the signed format
    bit b … b+s-1      the state's code
                         s = 0   nothing: every lane is OWN
                         s = 1   0 = OWN, 1 = the other state the format has
                         s = 2   the codes of State

Fields follow each other without gaps, lane 0 first, least significant bit first: bit k of the stream is bit k % 8 of
byte k // 8. Every row starts at a new byte; the bits left over in its last byte are 0, and anything else is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from overq.errors import InputError
from overq.spec.format import Format
from overq.spec.modes import Lane, State


def packed_bytes(lanes: int, fmt: Format) -> int:
    """Bytes of one packed row of `lanes` lanes."""
    return (lanes * (fmt.bits + fmt.state_bits) + 7) // 8


def pack(lanes: Sequence[Lane], fmt: Format) -> bytes:
    """One row of lanes as bytes."""
    width = fmt.bits + fmt.state_bits
    stream = 0
    for i, (digit, state) in enumerate(lanes):
        if not fmt.digit_min <= digit <= fmt.digit_max:
            raise InputError(f"lane {i}: digit {digit} is outside {fmt.digit_min} … {fmt.digit_max}")
        if state not in fmt.states:
            raise InputError(f"lane {i}: state {State(state).name} does not occur in {fmt}")
        code = fmt.states.index(State(state)) if fmt.state_bits == 1 else int(state)
        stream |= (digit % fmt.base | code << fmt.bits) << (i * width)
    return stream.to_bytes(packed_bytes(len(lanes), fmt), "little")


def unpack(data: bytes, lanes: int, fmt: Format) -> list[Lane]:
    """The inverse of `pack`; refuses a wrong length, an impossible state and stray bits."""
    if len(data) != packed_bytes(lanes, fmt):
        raise InputError(f"{lanes} lanes of {fmt} take {packed_bytes(lanes, fmt)} bytes, not {len(data)}")
    width = fmt.bits + fmt.state_bits
    stream = int.from_bytes(data, "little")
    if stream >> (lanes * width):
        raise InputError("stray bits after the last lane: the data was packed with another Format or is damaged")
    row = []
    for i in range(lanes):
        field = stream >> (i * width) & ((1 << width) - 1)
        digit = (field - fmt.digit_min) % fmt.base + fmt.digit_min
        code = field >> fmt.bits
        state = fmt.states[code] if fmt.state_bits < 2 else State(code)
        if state not in fmt.states:
            raise InputError(f"lane {i}: state {state.name} does not occur in {fmt}")
        row.append(Lane(digit, state))
    return row
