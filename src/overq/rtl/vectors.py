"""LayerVectors: what goes through the accelerator and what must come out, as one JSON file.

    schema       1
    source       in words: which layer of which network on which input, or the seed
    format       the fields of overq.spec.Format
    weight_bits, rows, columns, depth      the ArrayConfig
    tiles        list of {"t": [vectors][lanes], "weights": [lanes][columns]}, lanes ≤ rows, in the order they are added up; beside them,
                 where there are any, "starts": lanes where another channel vector begins, "off": lanes that are switched off
    multipliers, biases, shifts            per column, see OutputStage
    sums         [vectors][columns]  the finished sums, with the accumulator's fraction bits
    next_t       [vectors][columns]  what the output stage makes of them
`sums` and `next_t` may be left out; they are then computed from the definition. If they are there, they must agree with it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path

from overq.errors import InputError, OverqError
from overq.spec import ArrayConfig, Format, Lane, dot, encode_tile
from overq.spec.encode import saturate
from overq.spec.requantize import MULTIPLIER_BITS, SHIFT_BITS, bias_bits, limits, requantize

SCHEMA = 1


@dataclass(frozen=True)
class Tile:
    """One pass through the array: t [vectors][lanes] and weights [lanes][columns].

    starts   lanes where a segment begins, see spec.encode_tile
    off      lanes that are switched off, whatever their t
    """

    t: Sequence[Sequence[int]]
    weights: Sequence[Sequence[int]]
    starts: Sequence[int] = ()
    off: Sequence[int] = ()

    @property
    def lanes(self) -> int:
        return len(self.weights)

    @property
    def enabled(self) -> int:
        """One bit per lane."""
        return sum(1 << lane for lane in range(self.lanes) if lane not in self.off)

    def encoded(self, vector: int, fmt: Format) -> list[Lane]:
        return encode_tile([None if lane in self.off else t for lane, t in enumerate(self.t[vector])], fmt, self.starts)


@dataclass(frozen=True)
class LayerVectors:
    """Stimulus and answers for one block of output channels."""

    config: ArrayConfig
    tiles: Sequence[Tile]
    multipliers: Sequence[int]
    biases: Sequence[int]
    shifts: Sequence[int]
    source: str = "given"

    def __post_init__(self) -> None:
        config = self.config
        for name, rows in (
            ("t", [row for tile in self.tiles for row in tile.t]),
            ("weights", [row for tile in self.tiles for row in tile.weights]),
            ("multipliers, biases and shifts", [self.multipliers, self.biases, self.shifts]),
        ):
            if any(isinstance(value, bool) or not isinstance(value, Integral) for row in rows for value in row):
                raise InputError(f"layer vectors: {name} must be integers")
        if not self.tiles or not self.tiles[0].t:
            raise InputError("layer vectors need at least one tile with one vector")
        low, high = -(1 << (config.weight_bits - 1)), (1 << (config.weight_bits - 1)) - 1
        if sum(tile.lanes for tile in self.tiles) > config.dot_depth:
            raise InputError(f"the tiles have {sum(t.lanes for t in self.tiles)} lanes, more than the depth {config.dot_depth}")
        for i, tile in enumerate(self.tiles):
            if not 1 <= tile.lanes <= config.rows:
                raise InputError(f"tile {i} has {tile.lanes} lanes; the array has {config.rows} rows")
            if len(tile.t) != self.vectors:
                raise InputError(f"tile {i} has {len(tile.t)} vectors, tile 0 has {self.vectors}")
            if any(len(row) != tile.lanes for row in tile.t):
                raise InputError(f"tile {i}: every vector needs {tile.lanes} values, one per row of weights")
            if any(len(row) != config.columns for row in tile.weights):
                raise InputError(f"tile {i}: every lane needs {config.columns} weights, one per column")
            if not all(0 <= lane < tile.lanes for lane in (*tile.starts, *tile.off)):
                raise InputError(f"tile {i}: starts and off name lanes from 0 to {tile.lanes - 1}")
            if tile.starts and not config.segments:
                raise InputError(f"tile {i} has segments, but the array is not made for any")
            if any(not low <= w <= high for row in tile.weights for w in row):
                raise InputError(f"tile {i}: a weight is outside {low} … {high}")
        reach = 1 << (bias_bits(config.psum_bits) - 1)
        for name, least, limit in (("multipliers", 0, 1 << MULTIPLIER_BITS), ("shifts", 0, 1 << SHIFT_BITS), ("biases", -reach, reach)):
            values = getattr(self, name)
            if len(values) != config.columns or any(not least <= v < limit for v in values):
                raise InputError(f"{name} must be {config.columns} integers from {least} to {limit - 1}")

    @property
    def vectors(self) -> int:
        return len(self.tiles[0].t)

    def sums(self) -> list[list[int]]:
        """[vectors][columns], from the definition."""
        fmt = self.config.tile
        columns = range(self.config.columns)
        total = [[0] * self.config.columns for _ in range(self.vectors)]
        for tile in self.tiles:
            by_column = [[row[j] for row in tile.weights] for j in columns]
            for vector, sums in enumerate(total):
                lanes = tile.encoded(vector, fmt)
                for j in columns:
                    sums[j] += dot(lanes, by_column[j], fmt)
        return total

    def next_t(self, relu: bool = True) -> list[list[int]]:
        """[vectors][columns], after the output stage."""
        low, high = limits(self.config.format, relu)
        scales = list(zip(self.multipliers, self.biases, self.shifts, strict=True))
        return [[requantize(total, *scale, low, high) for total, scale in zip(row, scales, strict=True)] for row in self.sums()]

    def saturated(self) -> list[list[list[int]]]:
        """t per tile as it fits the encoder's port."""
        return [[[saturate(t, self.config.format) for t in row] for row in tile.t] for tile in self.tiles]

    # Files ---------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        config = self.config
        fields = {
            "schema": SCHEMA,
            "source": self.source,
            "format": config.format.to_json(),
            "weight_bits": config.weight_bits,
            "rows": config.rows,
            "columns": config.columns,
            "depth": config.dot_depth,
            "segments": config.segments,
            "tiles": [{name: values for name, values in asdict(tile).items() if values} for tile in self.tiles],
            "multipliers": self.multipliers,
            "biases": self.biases,
            "shifts": self.shifts,
            "sums": self.sums(),
            "next_t": self.next_t(),
        }
        return json.dumps(fields)

    @classmethod
    def load(cls, path: Path) -> LayerVectors:
        """Read and check a file; its answers, where given, must be the definition's."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8-sig"))
            if fields.get("schema") != SCHEMA:
                raise InputError(f"{path}: schema {fields.get('schema')!r}; this version reads schema {SCHEMA}")
            config = ArrayConfig(
                Format.from_json(fields["format"]),
                fields["weight_bits"],
                fields["rows"],
                fields["columns"],
                fields["depth"],
                segments=fields.get("segments", False),
            )
            tiles = [Tile(tile["t"], tile["weights"], tile.get("starts", ()), tile.get("off", ())) for tile in fields["tiles"]]
            made = cls(config, tiles, fields["multipliers"], fields["biases"], fields["shifts"], str(fields.get("source", path.name)))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        except OverqError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no layer-vector file: {error!r}") from error
        except RecursionError as error:
            raise InputError(f"{path} is no layer-vector file: it is nested too deeply") from error
        for name, answer in (("sums", made.sums), ("next_t", made.next_t)):
            if name in fields and fields[name] != answer():
                raise InputError(f"{path}: its {name} differ from what the definition gives")
        return made

    @classmethod
    def random(cls, config: ArrayConfig, *, vectors: int = 64, tiles: int = 2, seed: int = 0) -> LayerVectors:
        """Random data with many zeros and outliers; the tiles after the first are one lane short, hold a segment's edge and a lane that is
        switched off, where there is room."""
        rng = random.Random(seed)
        fmt, unit = config.format, config.format.unit

        def value() -> int:
            kind = rng.random()
            if kind < 0.4:
                return rng.randint(-(unit // 2) if fmt.signed else 0, unit // 2 - 1)
            if kind < 0.85:
                return rng.randint(fmt.digit_min * unit, fmt.digit_max * unit)
            return rng.randint(fmt.t_min, fmt.t_max) // rng.choice((1, 2, 4))

        low, high = -(1 << (config.weight_bits - 1)), (1 << (config.weight_bits - 1)) - 1
        made = []
        for i in range(min(tiles, config.dot_depth // config.rows)):
            lanes = config.rows - (i > 0 and config.rows > 1)
            t = [[value() for _ in range(lanes)] for _ in range(vectors)]
            starts, off = (
                (rng.randrange(1, lanes),) if i and lanes > 1 and config.segments else (),
                (rng.randrange(lanes),) if i and lanes > 2 else (),
            )
            weights = [[rng.randint(low, high) for _ in range(config.columns)] for _ in range(lanes)]
            made.append(Tile(t, weights, starts, off))
        # Scales that bring most sums into the range of t, and some beyond it.
        spread = max(config.psum_bits - config.t_bits, 0)
        multipliers = [rng.randrange(1 << (MULTIPLIER_BITS - 1), 1 << MULTIPLIER_BITS) for _ in range(config.columns)]
        shifts = [min(MULTIPLIER_BITS - 4 + spread // 2, (1 << SHIFT_BITS) - 1)] * config.columns
        biases = [rng.randint(-(1 << shift), 1 << shift) for shift in shifts]
        return cls(config, made, multipliers, biases, shifts, f"random, seed {seed}")
