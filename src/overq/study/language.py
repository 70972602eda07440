"""Perplexity of a language model in float, plain, rotated and OverQ, on one text: what `overq evaluate --task text` runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from overq.compare import AGREEMENT, KL, LOSS, PERPLEXITY, paired
from overq.errors import InputError
from overq.methods import Dynamic, OverQ, Uniform
from overq.nn import Recipe, observe, quantize
from overq.nn.cost import cost_of
from overq.study.data import Images, at
from overq.study.measure import Measured, all_scores, measured
from overq.study.models import function_of

MEASURED = (PERPLEXITY, AGREEMENT, KL)


@dataclass(frozen=True)
class Line:
    """One setting: stored bits of a value, perplexity and how it compares with float's on the same windows (95 % interval), percent of
    tokens with the same choice, nats of divergence."""

    setting: str
    bits: float
    perplexity: float
    ratio: float
    low: float
    high: float
    agreement: float
    kl: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def usual(bits: Sequence[int], plain_bits: Sequence[int], weight_bits: int = 8) -> list[tuple[str, Recipe]]:
    """Plain with a step for each token, the same on rotated inputs, and OverQ; every linear layer's input alike."""
    alike = partial(Recipe, weight_bits=weight_bits, first=None, last=None)
    plain = [(b, Dynamic(Uniform(b), "max")) for b in plain_bits]
    return [
        *((f"plain A{b}, a step a token", alike(method)) for b, method in plain),
        *((f"plain A{b}, inputs rotated at run time", alike(method, rotate=True)) for b, method in plain),
        *((f"{method.of.describe()}, a step a token", alike(method)) for method in map(overq, bits)),
    ]


def overq(bits: int) -> Dynamic:
    """The setting of OverQ that does best here: one state bit a value, a step for the bulk of each token, second digits for outliers."""
    return Dynamic(OverQ(bits, 16, bits, 0, "largest", evict=2), "rms")


def evaluate(
    model: nn.Module,
    scored: Images,
    calibration: Images,
    recipes: Sequence[tuple[str, Recipe]],
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> list[Line]:
    """Float and every recipe, one window at a time.

    scored, calibration  windows of token numbers (`study.text`), none of both
    progress             called with (setting, windows done, windows to do)
    """
    total, done = scored.count * (len(recipes) + 1), 0

    def tick(label: str, count: int) -> None:
        nonlocal done
        done += count
        progress(label, done, total)

    everything = range(scored.count)
    losses, halves = [], []
    for i in everything:  # its scores are kept in half precision, but not measured so
        scores = all_scores(model, scored, [i], 1)
        losses.append(measured(model, scored, [i], 1, (PERPLEXITY,), known=scores).columns[PERPLEXITY])
        halves.append(scores.half())
        tick("float", 1)
    base, exact = Measured({PERPLEXITY: np.concatenate(losses)}), torch.cat(halves)
    lines = [_line("float", 32.0, base, base)]
    seen = None
    for name, recipe in recipes:
        progress(f"calibrating {name}", done, total)
        if seen is None:
            seen = observe(model, calibration.batches(1), seed=recipe.seed)
        network = quantize(model, seen, recipe, check=False)
        found = measured(network, scored, everything, 1, MEASURED, exact, progress=partial(tick, name))
        lines.append(_line(name, cost_of(network, seen).bits, found, base))
    return lines


def _line(name: str, bits: float, found: Measured, base: Measured) -> Line:
    p = paired(base.columns[PERPLEXITY], found.columns[PERPLEXITY], LOSS)
    same = found.value(AGREEMENT) if AGREEMENT in found.columns else 100.0
    divergence = found.value(KL) if KL in found.columns else 0.0
    ratio, low, high = (math.exp(value) for value in (p.difference, p.low, p.high))
    return Line(name, bits, found.value(PERPLEXITY), ratio, low, high, same, divergence)


def split(windows: Images, samples: int, limit: int | None) -> tuple[Images, Images]:
    """(windows to score, the first `samples` windows to calibrate on). InputError where none is left to score."""
    if samples >= windows.count:
        raise InputError(f"{windows.name}: {samples} of {windows.count} windows for calibration leave none to score")
    left = range(samples, windows.count)
    return at(windows, left[:limit]), at(windows, range(samples))


def encoder_of(model: str, tokenizer: str | None) -> Callable[[str], list[int]]:
    """Text -> token numbers: of a model directory (hf:DIRECTORY), or what a function in a file gives.

    The function (file.py:function, package.module:function) takes no argument and gives a callable, or what has `encode(text)`.
    """
    spec = tokenizer or model
    if spec.startswith("hf:"):
        from overq.study.huggingface import encoder  # type: ignore[import-not-found, unused-ignore]

        return encoder(Path(spec.removeprefix("hf:")))
    if tokenizer is None:
        raise InputError(f"--task text needs the tokenizer of --model {model}: give --tokenizer hf:DIRECTORY or file.py:function")
    made = function_of(spec)()
    encode: Any = getattr(made, "encode", made)
    if not callable(encode):
        raise InputError(f"--tokenizer {spec}: it gave {type(made).__name__}, which neither is called nor has encode")

    def numbers(text: str) -> list[int]:
        try:
            found = encode(text)
        except Exception as error:  # whatever a user's function says
            raise InputError(f"--tokenizer {spec}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        ids = np.asarray(getattr(found, "ids", found))
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise InputError(f"--tokenizer {spec}: it gave {type(found).__name__}, not a list of token numbers")
        return [int(i) for i in ids]

    return numbers


def check_ids(model: nn.Module, windows: Images) -> None:
    """InputError where a token is beyond the model's embedding."""
    sizes = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    highest = int(torch.cat(list(windows.batches(256))).max())
    if sizes and highest >= max(sizes):
        raise InputError(
            f"{windows.name}: token {highest} is beyond the network's vocabulary of {max(sizes)}: is it the model's own tokenizer?"
        )
