"""Fuzz the fast backends: `python -m overq.kernels.fuzz --vectors 1e8`.

For each mode (policy × what is overwritten × signed) it makes random lane vectors batch by batch and compares a fast backend
with the definition as a compiled walk along each row (`rowscan`), every digit, state, count and real value; some rows of every batch
also go through the definition itself. Lengths, bits, cascade, tiles, memory layout and the mix of zeros, outliers and rounding edges
change from batch to batch.

Batch number n of a mode depends on (seed, mode, n) alone: `--state file` stores how far each mode got with which code and resumes there,
anew where the code of `spec` or `kernels` is another, and a mismatch is reported with its batch and the smallest row that still shows it.
Exit code 1 on a mismatch. benchmarks/results/fuzz.json is such a file.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from overq import kernels
from overq.errors import BackendError
from overq.kernels import array
from overq.kernels.rowscan import answer, rows
from overq.kernels.scale import factors
from overq.spec import POLICIES, Counts, Format, count, effective, encode

VALUES = 1 << 19  # values of one batch
SHARE = 16  # rows of a batch that also go through the definition in plain Python


def modes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name -> what a mode fixes: the policy, the sign, and which of r and f are on."""
    overwrites = {"range": (True, False), "precision": (False, True), "both": (True, True)}
    for (name, on), policy, signed in itertools.product(overwrites.items(), POLICIES, (False, True)):
        yield f"{name}-{policy}-{'signed' if signed else 'unsigned'}", {"on": on, "policy": policy, "signed": signed}


def batch(seed: int, mode: str, fields: dict[str, Any], number: int) -> tuple[Format, np.ndarray, np.random.Generator]:
    """(format, t [vectors, lanes] int32, generator) of one batch."""
    rng = np.random.default_rng([seed, zlib.crc32(mode.encode()), number])
    lanes = int(rng.choice([rng.integers(2, 20), rng.integers(20, 80), rng.integers(80, 600)], p=[0.75, 0.2, 0.05]))
    cascade = int(rng.choice([1, 2, 3, 4, 6, 8, 16]))
    tile = int(rng.integers(2, lanes + 1)) if rng.random() < 0.5 else None
    bits, (ranged, precise), signed = int(rng.integers(2, 9)), fields["on"], fields["signed"]
    r = int(rng.integers(1 + signed, bits + 1)) if ranged else 0
    f = int(rng.integers(1, bits + 1)) if precise else 0
    if rng.random() < 0.3:  # full digits
        r, f = bits * ranged, bits * precise
    evict = int(rng.integers(1, 4)) if ranged and number % 3 == 2 else 0  # drawn last, so that a batch that has none is as it was
    fmt = Format(bits, cascade, r, f, fields["policy"], signed, tile, evict)
    shares = (rng.random() * 0.8, rng.random() * 0.4, rng.random() * 0.3)
    start = int(rng.integers(1, 1 << 62))
    return fmt, rows(VALUES // lanes, lanes, start, fmt.digit_max, fmt.t_max, fmt.fraction_bits, fmt.signed, shares), rng


def mismatch(backend: ModuleType, t: np.ndarray, fmt: Format) -> str | None:
    """What differs from the row's walk, or None. t: [vectors, lanes]; the backend is asked in both layouts."""
    step = 0.1
    r, q = factors(step, fmt)
    x = ((t + np.float32(0.5)) / r).astype(np.float32)
    digits, states, E, counted = answer(t, fmt)
    again = array.fixed(x, step, fmt)
    if not np.array_equal(again, np.clip(t, fmt.t_min, fmt.t_max)):  # t of more bits than float32 has
        E = answer(again, fmt).E
    y = E.astype(np.float32) * q
    for axis, arranged, real in ((-1, t, x), (0, t.T.copy(), x.T.copy())):
        for name, ours, theirs in zip(("digits", "states"), backend.encode(arranged, fmt, axis), (digits, states), strict=True):
            if not np.array_equal(ours if axis else ours.T, theirs):
                return f"{name} differ, lanes along axis {axis}"
        if backend.counts(arranged, fmt, axis) != counted:
            return f"counts differ, lanes along axis {axis}"
        values = backend.overwrite(real, step, fmt, axis)
        if not np.array_equal(values if axis else values.T, y):
            return f"values differ, lanes along axis {axis}"
    return None


def against_definition(t: np.ndarray, fmt: Format) -> str | None:
    """The row's walk, and with it the backends, against the definition in plain Python."""
    digits, states, E, counted = answer(t, fmt)
    if counted != sum((count(row, fmt) for row in t.tolist()), Counts()):
        return "the walk's counts differ from the definition's"
    for row, some_digits, some_states, some_E in zip(t.tolist(), digits.tolist(), states.tolist(), E.tolist(), strict=True):
        lanes = encode(row, fmt)
        if [(d, s) for d, s in zip(some_digits, some_states, strict=True)] != [(d, int(s)) for d, s in lanes]:
            return "the walk differs from the definition"
        if effective(lanes, fmt) != some_E:
            return "the walk's E differs from the definition's"
    return None


def minimized(backend: ModuleType, t: np.ndarray, fmt: Format) -> list[int]:
    """One row, as short and as plain as it gets while still differing."""
    while len(t) > 1:
        halves = [half for half in (t[: len(t) // 2], t[len(t) // 2 :]) if mismatch(backend, half, fmt)]
        if not halves:
            return []  # only together: no half of these rows differs
        t = halves[0]
    row = t[0].tolist()
    shrinking = True
    while shrinking:
        shrinking = False
        shorter = [row[:i] + row[i + 1 :] for i in range(len(row)) if len(row) > 1]
        plainer = [[*row[:i], 0, *row[i + 1 :]] for i in range(len(row)) if row[i]]
        for candidate in shorter + plainer:
            if mismatch(backend, np.array([candidate], np.int32), fmt):
                row, shrinking = candidate, True
                break
    return row


def fuzz(name: str, mode: str, fields: dict[str, Any], seed: int, vectors: int, done: dict[str, int]) -> str | None:
    """Run batches of one mode until `vectors` lane vectors are compared; None, or the first mismatch in words."""
    backend = kernels.get(name)
    while done["vectors"] < vectors:
        fmt, t, rng = batch(seed, mode, fields, done["batches"])
        some = t[rng.integers(0, len(t), SHARE)]
        wrong = mismatch(backend, t, fmt) or against_definition(some, fmt)
        if wrong:
            row = minimized(backend, t, fmt)
            return f"{mode}, batch {done['batches']}, seed {seed}: {wrong}; {fmt}; smallest row t = {row}"
        done["batches"] += 1
        done["vectors"] += len(t)
        done["definition"] += len(some)
    return None


def code() -> str:
    """Which definition and kernels these are: a digest of their text."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted([*(package / "spec").glob("*.py"), *(package / "kernels").glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m overq.kernels.fuzz", description="Compare a fast backend with the definition, compiled and itself."
    )
    parser.add_argument("--vectors", type=float, default=1e6, help="lane vectors per mode (default 1e6)")
    parser.add_argument("--backend", default="numba", help="the backend to try (default numba)")
    parser.add_argument("--mode", action="append", help="only this mode; may be repeated. All: " + ", ".join(name for name, _ in modes()))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--state", type=Path, help="JSON file that remembers how far each mode got; resumes from it")
    options = parser.parse_args(arguments)
    state: dict[str, dict[str, int]] = {}
    try:
        kernels.get(options.backend)
        if options.state and options.state.exists():
            state = json.loads(options.state.read_text())
    except BackendError as error:
        parser.error(str(error))
    except (OSError, ValueError) as error:
        parser.error(f"--state {options.state}: not a state that this command wrote ({type(error).__name__})")
    known = dict(modes())
    for mode in options.mode or known:
        if mode not in known:
            parser.error(f"no mode {mode!r}; there are {', '.join(known)}")
        key = f"{options.backend} {options.seed} {code()} {mode}"
        done = state.setdefault(key, {"batches": 0, "vectors": 0, "definition": 0})
        begin = time.perf_counter()
        while done["vectors"] < options.vectors:
            wrong = fuzz(options.backend, mode, known[mode], options.seed, min(int(options.vectors), done["vectors"] + 2_000_000), done)
            if options.state:
                options.state.write_text(json.dumps(state, indent=1))
            if wrong:
                print(f"MISMATCH {wrong}")
                return 1
        seconds = time.perf_counter() - begin
        print(
            f"{mode}: {done['vectors']:,} lane vectors equal ({done['definition']:,} also to the definition), {seconds:.0f} s", flush=True
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
