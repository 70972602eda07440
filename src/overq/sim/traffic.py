"""Bits that a layer moves, state bits included."""

from __future__ import annotations

from dataclasses import dataclass

from overq.sim.layer import ArrayLayer
from overq.spec import ArrayConfig, Format
from overq.spec.packing import packed_bits


@dataclass(frozen=True)
class Traffic:
    """Bits moved by one layer.

    array_digits, array_states   activations from the buffer into the array, once a fold
    array_weights                weights into the array, once a fold
    array_sums                   partial sums out of the array and, but for the first tile of a dot product, back in
    memory_weights               every weight once
    memory_digits, memory_states the input map once, encoded when it was written (encode on write)
    memory_unencoded             the input map once as the encoder needs it (encode on read); it replaces the two before
    """

    array_digits: int
    array_states: int
    array_weights: int
    array_sums: int
    memory_weights: int
    memory_digits: int
    memory_states: int
    memory_unencoded: int


def unencoded_bits(fmt: Format) -> int:
    """Bits of a value that is not encoded yet: all that the encoder looks at.

    Plain: the digit. Range alone under `first`: the level. Else t as it is, fraction bits included.
    """
    if not fmt.cascade:
        return fmt.bits
    low, high = (fmt.wide_min, fmt.wide_max) if not fmt.precision_on and fmt.policy == "first" else (fmt.t_min, fmt.t_max)
    return max(-low - 1, high).bit_length() + 1 if fmt.signed else high.bit_length()


def _state_bits(lanes: int, fmt: Format) -> int:
    """Of one packed vector: one each, and one for two lanes where each pair has a kind bit."""
    return packed_bits(lanes, fmt) - lanes * fmt.bits


def layer_traffic(layer: ArrayLayer, machine: ArrayConfig) -> Traffic:
    """What the layer moves on the machine; the buffer holds its input, its partial sums and one block of weights."""
    fmt = machine.format
    outputs = layer.weights.shape[3]
    blocks = layer.groups * -(-(outputs // layer.groups) // machine.columns)
    lanes = blocks * layer.vectors * layer.depth
    tiles = layer.tiles(machine)
    passes = 2 * len(tiles) - 1
    channels = layer.digits.shape[-1]
    weights = layer.weights.size * machine.weight_bits
    return Traffic(
        array_digits=lanes * fmt.bits,
        array_states=blocks * layer.vectors * sum(_state_bits(piece.lanes, fmt) for tile in tiles for piece in tile),
        array_weights=weights * layer.together(machine),  # groups that share a tile meet zeros in each other's rows
        array_sums=layer.vectors * outputs * passes * machine.depth_bits(layer.depth),
        memory_weights=weights,
        memory_digits=layer.digits.size * fmt.bits,
        memory_states=layer.digits.size // channels * _state_bits(channels, fmt),
        memory_unencoded=layer.digits.size * unencoded_bits(fmt),
    )
