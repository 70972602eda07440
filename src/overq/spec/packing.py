"""What of lanes is stored and moved: one bit a lane says whose weight it uses, and where a second digit's kind stands (section 1.4).

Wires. A lane is a field of b bits and a bit m, "the previous lane's weight":

    m                            0 for OWN, 1 for every other state
    m = 1, and 0 a lane before   a second digit; which kind: `Format.kind`
    m = 1, and 1 a lane before   MOVED

This tells all: the served run s+1 … z is followed by lane z+1, which is OWN as z could serve only lanes before itself and the next
zero only lanes after z; and lane s before the run is OWN. In the first lane of a tile m is 0.

The field of a second digit holds its payload of r or f bits, two's complement where signed. `Format.kind`:

    known   at most one mode is on; the payload fills the field (signed: sign-extended, else with zeros)
    digit   r, f < b: the payload fills b-1 bits, and the top bit is the kind: 0 range, 1 precision
    pair    a kind bit for lanes 2k and 2k+1 together, of which one at most is a second digit; 0 range or neither, 1 precision

Packed. m follows its field's b bits, and the pair's kind bit follows an odd lane's m, or the last lane's. No gaps, lane 0 first, least
significant bit first: bit k of the stream is bit k % 8 of byte k // 8. Every row starts at a new byte; the bits left over in its
last byte are 0. A plain format has fields only. What no encoder gives is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from overq.errors import InputError
from overq.spec.format import Format
from overq.spec.modes import Lane, State

SECOND = (State.RANGE, State.PRECISION)  # by kind bit


class Wires(NamedTuple):
    """fields 0 … 2^b-1 and previous (the bit m), one a lane; kinds, one for two lanes, () where no pair needs one."""

    fields: tuple[int, ...]
    previous: tuple[int, ...]
    kinds: tuple[int, ...]


def to_wires(lanes: Sequence[Lane], fmt: Format) -> Wires:
    """The bits of a row of lanes."""
    fields, previous = [], []
    kinds = [0] * (-(-len(lanes) // 2)) if fmt.kind == "pair" else []
    for i, (digit, state) in enumerate(lanes):
        if state not in fmt.states:
            raise InputError(f"lane {i}: state {State(state).name} does not occur in {fmt.label}")
        low, high = payload(State(state), fmt)
        if not low <= digit <= high:
            raise InputError(f"lane {i}: digit {digit} of state {State(state).name} is outside {low} … {high}")
        kind = state == State.PRECISION
        field = digit % fmt.base
        if state in SECOND and fmt.kind == "digit":
            field = digit % (fmt.base // 2) + kind * fmt.base // 2
        fields.append(field)
        previous.append(int(state != State.OWN))
        if kinds and kind:
            kinds[i // 2] = 1
    wires = Wires(tuple(fields), tuple(previous), tuple(kinds))
    if from_wires(wires, fmt) != list(lanes):
        raise InputError(f"states {[State(lane.state).name for lane in map(Lane._make, lanes)]} are not those of encoded lanes")
    return wires


def from_wires(wires: Wires, fmt: Format) -> list[Lane]:
    """The inverse of `to_wires`: the decoder. Refuses what no encoder gives."""
    lanes: list[Lane] = []
    run = 0  # lanes since the last OWN
    for i, (field, m) in enumerate(zip(wires.fields, wires.previous, strict=True)):
        run = run + 1 if m else 0
        if m and (i % fmt.lanes if fmt.lanes else i) == 0:
            raise InputError(f"lane {i} is the first of a tile, but says that it holds something of the lane before it")
        if run > fmt.cascade:
            raise InputError(f"lane {i}: {run} lanes after an OWN one, but cascade is {fmt.cascade}")
        if not m:
            state = State.OWN
        elif run > 1:
            state = State.MOVED
        elif fmt.kind == "known":
            state = State.RANGE if fmt.range_on else State.PRECISION
        else:
            state = SECOND[field >> (fmt.bits - 1) if fmt.kind == "digit" else wires.kinds[i // 2]]
        if state not in fmt.states:
            raise InputError(f"lane {i}: state {state.name} does not occur in {fmt.label}")
        width = fmt.bits - 1 if state in SECOND and fmt.kind == "digit" else fmt.bits
        digit = field % (1 << width)
        if fmt.signed and digit >> (width - 1):
            digit -= 1 << width
        low, high = payload(state, fmt)
        if not low <= digit <= high:
            raise InputError(f"lane {i}: digit {digit} of state {state.name} is outside {low} … {high}")
        lanes.append(Lane(digit, state))
    for k, kind in enumerate(wires.kinds):
        if kind and not any(lane.state == State.PRECISION for lane in lanes[2 * k : 2 * k + 2]):
            raise InputError(f"lanes {2 * k} and {2 * k + 1}: a kind bit without a second digit")
    return lanes


def payload(state: State, fmt: Format) -> tuple[int, int]:
    """Least and greatest digit of a lane in that state."""
    bits = {State.RANGE: fmt.range_bits, State.PRECISION: fmt.fraction_bits}.get(state, fmt.bits)
    low = -(1 << bits >> 1) if fmt.signed else 0
    return low, low + (1 << bits) - 1


def packed_bits(lanes: int, fmt: Format) -> int:
    """Bits of `lanes` lanes of one row."""
    return lanes * (fmt.bits + (fmt.cascade > 0)) + (-(-lanes // 2) if fmt.kind == "pair" else 0)


def packed_bytes(lanes: int, fmt: Format) -> int:
    """Bytes of one packed row of `lanes` lanes."""
    return -(-packed_bits(lanes, fmt) // 8)


def pack(lanes: Sequence[Lane], fmt: Format) -> bytes:
    """One row of lanes as bytes."""
    wires = to_wires(lanes, fmt)
    stream = at = 0
    for part, width in _parts(len(lanes), fmt):
        stream |= getattr(wires, part[0])[part[1]] << at
        at += width
    return stream.to_bytes(packed_bytes(len(lanes), fmt), "little")


def unpack(data: bytes, lanes: int, fmt: Format) -> list[Lane]:
    """The inverse of `pack`; refuses a wrong length, what no encoder gives and stray bits."""
    if len(data) != packed_bytes(lanes, fmt):
        raise InputError(f"{lanes} lanes of {fmt.label} take {packed_bytes(lanes, fmt)} bytes, not {len(data)}")
    stream = int.from_bytes(data, "little")
    if stream >> packed_bits(lanes, fmt):
        raise InputError("stray bits after the last lane: the data was packed with another Format or is damaged")
    found: dict[str, list[int]] = {name: [] for name in Wires._fields}
    for (name, _), width in _parts(lanes, fmt):
        found[name].append(stream & ((1 << width) - 1))
        stream >>= width
    if not fmt.cascade:
        found["previous"] = [0] * lanes
    return from_wires(Wires(*(tuple(part) for part in found.values())), fmt)


def _parts(lanes: int, fmt: Format) -> list[tuple[tuple[str, int], int]]:
    """((which of the wires, its place), its bits), in the order of the stream."""
    parts = []
    for i in range(lanes):
        parts.append((("fields", i), fmt.bits))
        if fmt.cascade:
            parts.append((("previous", i), 1))
        if fmt.kind == "pair" and (i % 2 or i == lanes - 1):
            parts.append((("kinds", i // 2), 1))
    return parts
