"""RowState: how a lane's state travels along an array row, and the shift it means."""

from __future__ import annotations

from dataclasses import dataclass

from overq.spec import Format, State


@dataclass(frozen=True)
class RowState:
    """How a lane's state travels along an array row: fewer wires than the state code, because the rows know each other.

    bit 0  neighbour  the element uses the weight of the row before (any state but OWN)
    bit 1  fine       PRECISION; present only where a RANGE digit could stand there too

    A second digit always follows an OWN lane and a MOVED one never does, so MOVED is `neighbour` here and `neighbour`
    in the row before: the third state costs no register, only a wire from the element above.
    """

    format: Format

    @property
    def width(self) -> int:
        return (self.format.cascade > 0) + self.has_fine

    @property
    def has_fine(self) -> bool:
        return self.format.range_on and self.format.precision_on

    @property
    def has_moved(self) -> bool:
        return State.MOVED in self.format.states

    def bits(self, state: State) -> int:
        """The row bits of a state."""
        if state == State.OWN:
            return 0
        return 1 | (2 if self.has_fine and state == State.PRECISION else 0)

    def state(self, bits: int, neighbour_above: int) -> State:
        """The state that the bits mean below a row whose neighbour bit is `neighbour_above`."""
        if not bits & 1:
            return State.OWN
        if self.has_moved and neighbour_above:
            return State.MOVED
        if self.has_fine:
            return State.PRECISION if bits & 2 else State.RANGE
        return State.RANGE if self.format.range_on else State.PRECISION
