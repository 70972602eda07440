"""What OverQ is: one row of integers at a time, in plain Python, standard library only.

fmt = Format(bits=4, cascade=4)
lanes = encode(row, fmt)            # row: integers t with b+1 fraction bits
E = effective(lanes, fmt)           # integers with b fraction bits
total = dot(lanes, weights, fmt)    # the array's sum, times 2^b
"""

from overq.spec.array import ArrayConfig, encode_tile
from overq.spec.counts import Counts, count, expected_coverage
from overq.spec.dot import accumulator_bits, dot, effective, fraction_bits
from overq.spec.encode import encode
from overq.spec.format import POLICIES, Format
from overq.spec.modes import EXPONENT, MODES, Lane, State
from overq.spec.packing import pack, packed_bytes, unpack

__all__ = [
    "EXPONENT",
    "MODES",
    "POLICIES",
    "ArrayConfig",
    "Counts",
    "Format",
    "Lane",
    "State",
    "accumulator_bits",
    "count",
    "dot",
    "effective",
    "encode",
    "encode_tile",
    "expected_coverage",
    "fraction_bits",
    "pack",
    "packed_bytes",
    "unpack",
]
