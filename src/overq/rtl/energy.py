"""What the blocks of an accelerator take, each in its own netlist, with vectors as a layer has them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overq.eda.energy import BlockEnergy
from overq.eda.liberty import Library
from overq.eda.netlist import Netlist
from overq.eda.synth import netlists
from overq.errors import InputError
from overq.rtl.parts import FEW, Part, skew_flip_flops
from overq.rtl.state import RowState
from overq.spec import ArrayConfig, Lane, encode, shift
from overq.spec.encode import saturate
from overq.spec.requantize import MULTIPLIER_BITS

PLACES, COLUMNS = 8, 4  # rows and columns of the array whose elements are looked at
SEED = 7
_REGISTER = "module overq_register(input clk, input d, output reg q); always @(posedge clk) q <= d; endmodule\n"


@dataclass(frozen=True)
class Vectors:
    """What streams through a tile: t [vectors][lanes], weights [lanes][columns]; source in words."""

    t: Sequence[Sequence[int]]
    weights: Sequence[Sequence[int]]
    source: str

    def __post_init__(self) -> None:
        if len(self.t) < 2 or len(self.t[0]) < 2 or len(self.weights) != len(self.t[0]):
            raise InputError("energy needs at least two vectors of at least two lanes, and a weight for each lane")


def block_energies(config: ArrayConfig, parts: Sequence[Part], library: Library, vectors: Vectors) -> BlockEnergy:
    """parts   of the same configuration, as `parts.compared` makes them with a library"""
    element, encoder, output = (_netlist(parts, name) for name in ("element", "encoder", "output stage"))
    lanes, register = len(encoder.inputs["in_enable"]), _register(library)
    rng = random.Random(SEED)
    stream = [{"d": rng.getrandbits(1)} for _ in range(200)]
    weights = [{**_still(element), "load": 1, "weight_in": w, "chain_in": w} for w in (rng.randrange(-128, 128) for _ in range(100))]
    counted = skew_flip_flops(config)
    leaking = sum(part.count * part.share * part.netlist.leakage for part in parts if part.netlist is not None)
    leaking += sum(part.count for part in parts if part.netlist is None) * register.leakage
    return BlockEnergy(
        element=element.energy(*_element_streams(element, config, vectors)),
        idle=element.energy([_still(element)] * 3),
        load=element.energy(_known(element, weights)),
        encode=encoder.energy(*_encoder_streams(encoder, config, vectors, lanes)) / lanes,
        scale=output.energy(_output_stream(output, config, vectors)),
        register=register.energy(stream),
        waiting=register.energy([{"d": 0}] * 3),
        registers=counted,
        leakage=leaking,
        period=max(part.period for part in parts if part.name.startswith("element")),
        edge=max(part.period for part in parts if not part.name.startswith("element")),
        area=sum(part.total for part in parts),
        library=library.name,
        voltage=library.voltage,
    )


def _netlist(parts: Sequence[Part], start: str) -> Netlist:
    """Of the part whose name starts so, the elements' of the later rows."""
    part = next(part for part in parts if part.name.startswith(start) and part.name != "element, first row")
    if part.netlist is None:
        raise InputError("energy needs a cell library")
    return part.netlist


def _register(library: Library) -> Netlist:
    """One flip-flop alone."""
    netlist = netlists("overq_register", _REGISTER, library, FEW)[0].netlist
    assert netlist is not None  # there is a library
    return netlist


def _still(netlist: Netlist) -> dict[str, int]:
    return dict.fromkeys((name for name in netlist.inputs if name != "clk"), 0)


def _known(netlist: Netlist, stream: Sequence[Mapping[str, int]]) -> list[Mapping[str, int]]:
    """What the netlist has ports for."""
    return [{name: value for name, value in given.items() if name in netlist.inputs} for given in stream]


def _element_streams(netlist: Netlist, config: ArrayConfig, vectors: Vectors) -> list[list[Mapping[str, int]]]:
    """What elements at some rows and columns see while the tile streams through: one mapping a cycle."""
    fmt, rows = config.format, len(vectors.weights)
    state = RowState(fmt)
    encoded = [encode([saturate(t, fmt) for t in row], fmt.with_(lanes=None)) for row in vectors.t]
    columns = range(min(COLUMNS, len(vectors.weights[0])))
    chosen = sorted({1 + k * (rows - 1) // PLACES for k in range(PLACES)} & set(range(1, rows)))
    partial = {column: _partial_sums(encoded, [w[column] for w in vectors.weights], config) for column in columns}
    streams = []
    for row in chosen:
        for column in columns:
            own, above = vectors.weights[row][column], vectors.weights[row - 1][column]
            first = {**_still(netlist), "load": 1, "weight_in": own, "chain_in": own}
            stream: list[Mapping[str, int]] = [first, {**_still(netlist), "swap": 1, "chain_in": own}]
            for vector, lanes in enumerate(encoded):
                digit, wires = state.wires(lanes[row]) if state.width else (lanes[row].digit, 0)
                stream.append(
                    {
                        "load": 0,
                        "swap": 0,
                        "chain_in": own,
                        "weight_in": above,
                        "digit_in": digit,
                        "state_in": wires,
                        "neighbour_above": int(lanes[row - 1].state != 0),
                        "sum_in": partial[column][vector][row],
                    }
                )
            streams.append(_known(netlist, stream))
    return streams


def _partial_sums(encoded: Sequence[Sequence[Lane]], weights: Sequence[int], config: ArrayConfig) -> list[list[int]]:
    """[vectors][rows]: what enters each row from above; the sums of earlier tiles are left out."""
    out = []
    for lanes in encoded:
        total, row = 0, []
        for k, (digit, state) in enumerate(lanes):
            row.append(total)
            total += digit * weights[k - (state != 0)] << shift(state, config.format)
        out.append([*row, total])
    return out


def _encoder_streams(netlist: Netlist, config: ArrayConfig, vectors: Vectors, lanes: int) -> list[list[Mapping[str, int]]]:
    bits = len(netlist.inputs["in_t"]) // lanes
    given = len(vectors.t[0])
    streams = []
    for start in range(0, max(given - lanes, 0) + 1, lanes):
        stream = []
        for row in vectors.t:
            piece = [saturate(row[lane % given], config.format) & ((1 << bits) - 1) for lane in range(start, start + lanes)]
            packed = sum(t << (bits * lane) for lane, t in enumerate(piece))
            stream.append({**_still(netlist), "in_valid": 1, "out_ready": 1, "in_enable": (1 << lanes) - 1, "in_t": packed})
        streams.append(_known(netlist, stream))
    return streams


def _output_stream(netlist: Netlist, config: ArrayConfig, vectors: Vectors) -> list[Mapping[str, int]]:
    """Finished sums of the tile's first column, scaled to about the range of t."""
    fmt = config.format
    lanes = [encode([saturate(t, fmt) for t in row], fmt.with_(lanes=None)) for row in vectors.t]
    sums = [row[-1] for row in _partial_sums(lanes, [w[0] for w in vectors.weights], config)]
    most = max(max(map(abs, sums)).bit_length(), 1)
    still = {**_still(netlist), "in_valid": 1, "multipliers": (1 << MULTIPLIER_BITS) * 5 // 7}
    still["shifts"] = max(most + MULTIPLIER_BITS - config.t_bits, 0)
    return _known(netlist, [{**still, "in_sums": total} for total in sums])
