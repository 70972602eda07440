"""Write tests/golden/*.json: inputs and answers that every implementation, hardware included, must reproduce.

    python scripts/make_golden.py [folder]

The answers come from the definition in plain Python (overq.spec) alone. `hand_worked.json` is the exception: its
lanes are written below by hand, with their reasons, and this script refuses to write if the definition disagrees.
The schema is described in tests/golden/README.md.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from overq.spec import Format, Lane, State, dot, effective, encode, pack

FOLDER = Path(__file__).parents[1] / "tests" / "golden"
OWN, RANGE, MOVED, PRECISION = State

FORMATS = {
    "plain_4": Format.plain(4),
    "plain_8_signed": Format.plain(8, signed=True),
    "range_4_c1": Format(4, 1, 4, 0),
    "range_4_c4": Format(4, 4, 4, 0),
    "range_3_c16_largest": Format(3, 16, 3, 0, "largest"),
    "range_4_c4_signed_tile16": Format(4, 4, 4, 0, signed=True, lanes=16),
    "precision_4_c1": Format(4, 1, 0, 4),
    "precision_2_c3_largest": Format(2, 3, 0, 2, "largest"),
    "both_2_c2": Format(2, 2, 2, 2),
    "both_3_c3_signed": Format(3, 3, 3, 3, signed=True),
    "both_4_c1_tile8": Format(4, 1, 4, 4, lanes=8),
    "both_4_c4": Format(4, 4, 4, 4),
    "both_4_c4_largest": Format(4, 4, 4, 4, "largest"),
    "both_4_c4_signed_largest_tile8": Format(4, 4, 4, 4, "largest", signed=True, lanes=8),
    "both_8_c16": Format(8, 16, 8, 8),
    "r3f3_4_c4": Format(4, 4, 3, 3),
    "r2f2_3_c8_largest": Format(3, 8, 2, 2, "largest"),
    "r3f3_4_c4_signed": Format(4, 4, 3, 3, signed=True),
    "r2f1_3_c3_signed_largest_tile8": Format(3, 3, 2, 1, "largest", signed=True, lanes=8),
    "r1f4_4_c2": Format(4, 2, 1, 4),
    "r2_4_c8_largest": Format(4, 8, 2, 0, "largest"),
    "f2_4_c3_signed_largest": Format(4, 3, 0, 2, "largest", signed=True),
    "evict1_4_c4": Format(4, 4, 3, 3, evict=1),
    "evict2_4_c8_signed_largest": Format(4, 8, 3, 3, "largest", signed=True, evict=2),
    "evict3_3_c4_signed_tile8": Format(3, 4, 3, 0, signed=True, lanes=8, evict=3),
}

U2, U2R, U2P, U21 = Format(2, 2, 2, 2), Format(2, 2, 2, 0), Format(2, 2, 0, 2), Format(2, 2, 1, 1)
S2, S21, LARGEST = Format(2, 2, 2, 2, signed=True), Format(2, 2, 2, 1, signed=True), Format(2, 2, 2, 0, "largest")
# Values in eighths of a step, t = floor(value · 2^(f+1)); b = 2: unsigned digits 0 … 3, signed -2 … 1.
HAND_WORKED = [
    ("no zero: nothing is served, 5 clips to 3", U2, [8, 40, 16], [(1, OWN), (3, OWN), (2, OWN)]),
    ("5 = 1·4 + 1 next to its zero: low digit, then high digit", U2R, [40, 0], [(1, OWN), (1, RANGE)]),
    ("cascade 2: the 2 between moves up one lane", U2R, [40, 16, 0], [(1, OWN), (1, RANGE), (2, MOVED)]),
    ("three lanes away is out of reach of cascade 2", U2R, [40, 8, 16, 0], [(3, OWN), (1, OWN), (2, OWN), (0, OWN)]),
    ("a zero serves one: the farther outlier", U2R, [40, 48, 0], [(1, OWN), (1, RANGE), (3, MOVED)]),
    ("largest: the worse clipped one", LARGEST, [40, 48, 0], [(3, OWN), (2, OWN), (1, RANGE)]),
    ("largest, a tie: the lower lane", LARGEST, [40, 40, 0], [(1, OWN), (1, RANGE), (3, MOVED)]),
    ("a reach ends at the previous zero", U2R, [40, 0, 48, 0], [(1, OWN), (1, RANGE), (2, OWN), (1, RANGE)]),
    ("a tile's edge is never crossed", U2R.with_(lanes=2), [8, 40, 0, 8], [(1, OWN), (3, OWN), (0, OWN), (1, OWN)]),
    ("1.25 = 1 + 1/4 next to its zero", U2, [10, 0], [(1, OWN), (1, PRECISION)]),
    ("precision under first serves next door only", U2, [10, 14, 0], [(1, OWN), (1, OWN), (3, PRECISION)]),
    ("precision under largest: 1.375 is worse than 2", U2P.with_(policy="largest"), [11, 16, 0], [(1, OWN), (2, PRECISION), (2, MOVED)]),
    ("an outlier goes before precision", U2, [40, 10, 0], [(1, OWN), (1, RANGE), (1, MOVED)]),
    ("without a high digit 5 saturates to 3, and its fraction is 0", U2P, [10, 40, 0], [(1, OWN), (3, OWN), (0, PRECISION)]),
    ("saturation: 15 = 3·4 + 3 is the most", U2R, [400, 0], [(3, OWN), (3, RANGE)]),
    ("just below half a step is a zero, half a step is not", U2R, [3, 4], [(0, OWN), (1, OWN)]),
    ("a tie rounds up: 1.5 is 2", Format.plain(2), [12], [(2, OWN)]),
    ("unsigned: a negative value is a free zero", U2R, [40, -100], [(1, OWN), (1, RANGE)]),
    ("signed: 2 = 1·4 - 2, balanced digits", S2, [16, 0], [(-2, OWN), (1, RANGE)]),
    ("signed: -3 = -1·4 + 1", S2, [-24, 0], [(1, OWN), (-1, RANGE)]),
    ("signed: the least is -2·4 - 2 = -10", S2, [-999, 0], [(-2, OWN), (-2, RANGE)]),
    ("signed: -0.75 = -1 + 1/4 in a zero's lane", S2, [-6, 0], [(-1, OWN), (1, PRECISION)]),
    ("r = 1: 7 = 1·4 + 3 is the most, and 8 saturates to it", U21, [64, 0], [(3, OWN), (1, RANGE)]),
    ("f = 1: 1.375 = 1 + 1/2, to the nearest half", U21, [11, 0], [(1, OWN), (1, PRECISION)]),
    ("f = 1: 1.125 is nearest to 1 + 0/2", U21, [9, 0], [(1, OWN), (0, PRECISION)]),
    ("signed, f = 1: the fraction is -1/2 or 0, so -0.5 = 0 - 1/2", S21, [-5, 0], [(0, OWN), (-1, PRECISION)]),
    ("signed, f = 1: 1.375 would be 2 - 1/2, but 1 is the most", S21, [11, 0], [(1, OWN), (0, PRECISION)]),
    ("evict 1: no zero behind 5, so the first 1 gives way", U2R.with_(evict=1), [40, 16, 8], [(1, OWN), (1, RANGE), (2, MOVED)]),
    ("evict 1: a zero in reach, so nothing gives way", U2R.with_(evict=1), [40, 8, 0], [(1, OWN), (1, RANGE), (1, MOVED)]),
    ("evict 2: 4 is clipped by 1 only, no reason to lose a 2", U2R.with_(evict=2), [32, 16, 8], [(0, OWN), (1, RANGE), (2, MOVED)]),
    ("evict 1: the look ends at the next outlier", U2R.with_(evict=1), [40, 32, 8], [(1, OWN), (1, RANGE), (3, MOVED)]),
]


def answers(t: list[int], fmt: Format, weights: list[int], note: str = "") -> dict[str, object]:
    """One row with everything the definition says about it."""
    lanes = encode(t, fmt)
    return {
        **({"note": note} if note else {}),
        "t": t,
        "digits": [digit for digit, _ in lanes],
        "states": [int(state) for _, state in lanes],
        "effective": effective(lanes, fmt),
        "packed": pack(lanes, fmt).hex(),
        "weights": weights,
        "dot": dot(lanes, weights, fmt),
    }


def random_row(rng: random.Random, lanes: int, fmt: Format) -> list[int]:
    """Zeros, small values, rounding edges, outliers and saturating values, in a mix that differs from row to row."""
    unit, half, top = fmt.unit, fmt.unit // 2, fmt.digit_max * fmt.unit
    kinds = [
        lambda: rng.randint(-half, half - 1),
        lambda: rng.randint(half, top + half - 1),
        lambda: rng.choice((1, 2, 3)) * unit + rng.choice((-half - 1, -half, half - 1, half)),
        lambda: rng.randint(top + half, max(fmt.t_max, top + half)),
        lambda: rng.choice((fmt.t_max, fmt.t_max + 1, 4 * fmt.t_max)),
    ]
    chances = [rng.random() ** 2 + 0.01 for _ in kinds]
    return [rng.choices(kinds, chances)[0]() * (-1 if fmt.signed and rng.random() < 0.5 else 1) for _ in range(lanes)]


def random_weights(rng: random.Random, lanes: int) -> list[int]:
    """8-bit two's complement, the extremes included."""
    return [rng.choice((-128, 127)) if rng.random() < 0.1 else rng.randint(-128, 127) for _ in range(lanes)]


def files() -> dict[str, str]:
    """Name -> text of every golden file."""
    rng = random.Random("overq hand-worked")
    worked = []
    for note, fmt, eighths, lanes in HAND_WORKED:
        t = [value >> 2 - fmt.fraction_bits for value in eighths]
        if encode(t, fmt) != [Lane(*lane) for lane in lanes]:
            raise SystemExit(f"the definition disagrees with the hand-worked case: {note}: {encode(t, fmt)}")
        worked.append((fmt, [answers(t, fmt, random_weights(rng, len(t)), note)]))
    texts = {"hand_worked.json": _text("lanes worked out by hand in scripts/make_golden.py; b = 2", worked)}
    for name, fmt in FORMATS.items():
        rng = random.Random(f"overq {name}")
        lengths = [1, 2, 3, 5, 8, 15, 33] + [16] * 20
        rows = [answers(random_row(rng, lanes, fmt), fmt, random_weights(rng, lanes)) for lanes in lengths]
        texts[f"{name}.json"] = _text("the definition in plain Python (overq.spec), random rows from scripts/make_golden.py", [(fmt, rows)])
    return texts


def _text(source: str, cases: list[tuple[Format, list[dict[str, object]]]]) -> str:
    """JSON with one row a line."""
    parts = []
    for fmt, rows in cases:
        lines = ",\n".join("   " + json.dumps(row) for row in rows)
        parts.append(f'  {{"format": {json.dumps(fmt.to_json())}, "rows": [\n{lines}\n  ]}}')
    joined = ",\n".join(parts)
    return f'{{\n "schema": 1,\n "source": {json.dumps(source)},\n "cases": [\n{joined}\n ]\n}}\n'


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for file, text in files().items():
        (folder / file).write_text(text)
    print(f"{len(files())} files, {sum(len(text) for text in files().values())} bytes in {folder}")
