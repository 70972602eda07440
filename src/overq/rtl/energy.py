"""What the blocks of an accelerator take, each in its own netlist, with vectors as a layer has them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from overq.eda.energy import BlockEnergy
from overq.eda.liberty import Library
from overq.eda.netlist import Netlist
from overq.eda.synth import netlists
from overq.errors import InputError
from overq.rtl.parts import FEW, Part, skew_flip_flops
from overq.rtl.rivals import BESIDE, RivalLane
from overq.rtl.state import RowState
from overq.spec import ArrayConfig, Format, Lane, shift
from overq.spec.array import encode_tile
from overq.spec.encode import saturate
from overq.spec.requantize import MULTIPLIER_BITS

LOOKED_AT, COLUMNS = 8, 4  # rows and columns of the array whose elements are looked at
SEED = 7
_REGISTER = "module overq_register(input clk, input d, output reg q); always @(posedge clk) q <= d; endmodule\n"


@dataclass(frozen=True)
class Vectors:
    """What streams through a tile: t [vectors][lanes], weights [lanes][columns]; source in words; starts: lanes where segments begin."""

    t: Sequence[Sequence[int]]
    weights: Sequence[Sequence[int]]
    source: str
    starts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.t) < 2 or len(self.t[0]) < 2 or len(self.weights) != len(self.t[0]):
            raise InputError("energy needs at least two vectors of at least two lanes, and a weight for each lane")

    def encoded(self, fmt: Format) -> list[list[Lane]]:
        """Each vector's lanes."""
        return [encode_tile([saturate(t, fmt) for t in row], fmt, self.starts) for row in self.t]


def block_energies(config: ArrayConfig, parts: Sequence[Part], library: Library, vectors: Vectors) -> BlockEnergy:
    """parts   of the same configuration, as `parts.compared` makes them with a library"""
    element, encoder, output = (_netlist(parts, name) for name in ("element", "encoder", "output stage"))
    lanes, fmt = len(encoder.inputs["in_enable"]), config.format
    encoded = vectors.encoded(fmt)
    sums = [row[-1] for row in _partial_sums(encoded, [w[0] for w in vectors.weights], fmt)]
    return _gathered(
        parts,
        library,
        element=element.energy(*_element_streams(element, config, vectors, encoded)),
        encode=encoder.energy(*_encoder_streams(encoder, config, vectors, lanes)) / lanes,
        scale=output.energy(_output_stream(output, config, sums)),
        registers=skew_flip_flops(config),
    )


def rival_energies(
    name: str,
    bits: int,
    config: ArrayConfig,
    parts: Sequence[Part],
    library: Library,
    lanes: Sequence[Sequence[RivalLane]],
    vectors: Vectors,
) -> BlockEnergy:
    """Of a rival's array, in whose favour what makes its lanes takes nothing.

    config, parts   as for `rivals.rival_parts`
    lanes           [vectors][lanes] what `vectors` become
    """
    element, output = (_netlist(parts, part) for part in ("element", "output stage"))
    weights, columns = vectors.weights, range(min(COLUMNS, len(vectors.weights[0])))
    values = [[digit << shift for digit, shift, _ in row] for row in lanes]
    streams: list[list[Mapping[str, int]]] = []
    ends: list[int] = []
    for column in columns:
        of = [w[column] for w in weights]
        sums = [
            [0, *accumulate(v * of[k ^ lane.other] for k, (v, lane) in enumerate(zip(*row, strict=True)))]
            for row in zip(values, lanes, strict=True)
        ]
        ends = ends or [row[-1] for row in sums]
        for row in _rows(len(weights)):
            partner = of[row ^ 1] if row ^ 1 < len(of) else 0
            fixed = {"weight_in": of[row], "partner_weight": partner}
            stream: list[Mapping[str, int]] = [{**_still(element), **fixed, "load": 1}, {**_still(element), **fixed}]
            for vector, some in enumerate(lanes):
                digit, shift, other = some[row]
                stream.append({"load": 0, **fixed, "digit_in": digit, "shift_in": shift, "other_in": other, "sum_in": sums[vector][row]})
            streams.append(_known(element, stream))
    return _gathered(
        parts,
        library,
        element=element.energy(*streams),
        encode=0.0,
        scale=output.energy(_output_stream(output, config, ends)),
        registers=skew_flip_flops(config, bits + BESIDE[name]),
    )


def _gathered(parts: Sequence[Part], library: Library, *, element: float, encode: float, scale: float, registers: int) -> BlockEnergy:
    """With what does not depend on what streams: waiting, loading, leaking."""
    netlist, register = _netlist(parts, "element"), _register(library)
    rng = random.Random(SEED)
    stream = [{"d": rng.getrandbits(1)} for _ in range(200)]
    weights = [{**_still(netlist), "load": 1, "weight_in": w, "chain_in": w} for w in (rng.randrange(-128, 128) for _ in range(100))]
    leaking = sum(part.count * part.share * part.netlist.leakage for part in parts if part.netlist is not None)
    leaking += sum(part.count for part in parts if part.netlist is None) * register.leakage
    return BlockEnergy(
        element=element,
        idle=netlist.energy([_still(netlist)] * 3),
        load=netlist.energy(_known(netlist, weights)),
        encode=encode,
        scale=scale,
        register=register.energy(stream),
        waiting=register.energy([{"d": 0}] * 3),
        registers=registers,
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


def _rows(rows: int) -> list[int]:
    """Which of the rows are looked at, the first not among them."""
    return sorted({1 + k * (rows - 1) // LOOKED_AT for k in range(LOOKED_AT)} & set(range(1, rows)))


def _element_streams(
    netlist: Netlist, config: ArrayConfig, vectors: Vectors, encoded: Sequence[Sequence[Lane]]
) -> list[list[Mapping[str, int]]]:
    """What elements at some rows and columns see while the tile streams through: one mapping a cycle."""
    state = RowState(config.format)
    columns = range(min(COLUMNS, len(vectors.weights[0])))
    partial = {column: _partial_sums(encoded, [w[column] for w in vectors.weights], config.format) for column in columns}
    streams = []
    for row in _rows(len(vectors.weights)):
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


def _partial_sums(encoded: Sequence[Sequence[Lane]], weights: Sequence[int], fmt: Format) -> list[list[int]]:
    """[vectors][rows]: what enters each row from above; the sums of earlier tiles are left out."""
    out = []
    for lanes in encoded:
        total, row = 0, []
        for k, (digit, state) in enumerate(lanes):
            row.append(total)
            total += digit * weights[k - (state != 0)] << shift(state, fmt)
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


def _output_stream(netlist: Netlist, config: ArrayConfig, sums: Sequence[int]) -> list[Mapping[str, int]]:
    """Finished sums of the tile's first column, scaled to about the range of t."""
    most = max(max(map(abs, sums)).bit_length(), 1)
    still = {**_still(netlist), "in_valid": 1, "multipliers": (1 << MULTIPLIER_BITS) * 5 // 7}
    still["shifts"] = max(most + MULTIPLIER_BITS - config.t_bits, 0)
    return _known(netlist, [{**still, "in_sums": total} for total in sums])
