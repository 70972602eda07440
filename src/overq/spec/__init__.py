"""What OverQ is: one row of integers at a time, in plain Python, standard library only.

fmt = Format(bits=4, cascade=4)
lanes = encode(row, fmt)            # row: integers t with f+1 fraction bits
E = effective(lanes, fmt)           # integers with f fraction bits
total = dot(lanes, weights, fmt)    # the array's sum, times 2^f
"""

from overq.spec.array import ArrayConfig, encode_tile
from overq.spec.counts import Counts, count, expected_coverage, seen
from overq.spec.dot import accumulator_bits, dot, effective, shift
from overq.spec.encode import encode
from overq.spec.format import POLICIES, Format
from overq.spec.modes import MODES, Lane, State
from overq.spec.packing import Wires, from_wires, pack, packed_bytes, to_wires, unpack

__all__ = [
    "MODES",
    "POLICIES",
    "ArrayConfig",
    "Counts",
    "Format",
    "Lane",
    "State",
    "Wires",
    "accumulator_bits",
    "count",
    "dot",
    "effective",
    "encode",
    "encode_tile",
    "expected_coverage",
    "from_wires",
    "pack",
    "packed_bytes",
    "seen",
    "shift",
    "to_wires",
    "unpack",
]
