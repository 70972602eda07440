"""What is measured of a network on images or windows of text: top-1, signal to noise of the scores, coverage; perplexity, agreement and
divergence of next tokens (`study.text`); or a function of the user's own.

A measure is a few numbers for each image (columns), and one value made of the columns' means over the images. So shards join by
concatenation, and one paired bootstrap (`compare`) serves all of them. Coverage alone is counted by layer, not by image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from overq.compare import COVERAGE, SQNR, TEXT, TOP1, value_of
from overq.errors import InputError
from overq.nn import count_lanes, summary
from overq.nn.call import run
from overq.nn.report import LayerReport
from overq.nn.trees import home, moved
from overq.records import LayerCoverage, LayerInput
from overq.spec import Counts, expected_coverage
from overq.study.data import Images, at
from overq.study.models import function_of
from overq.study.text import next_tokens

MEASURES = (TOP1, SQNR, COVERAGE)  # of a study that does not say which
KNOWN = (*MEASURES, *TEXT)


Lanes = dict[str, tuple[Counts, int]]
Fitted = tuple[str, float | None, float | None]  # a layer's format, step and SQNR of its sample in dB, see `records.LayerCoverage`


@dataclass(frozen=True)
class Measured:
    """Of one setting on some images.

    columns  measure -> float64 [images, columns]: top1 [right], sqnr [signal, noise], perplexity [loss, tokens], agreement [agreeing,
             tokens], kl [divergence, tokens], a function's (file.py:function) [score]
    lanes    layer -> (its lane counts, its cascade factor), where coverage was asked for and the layer overwrites its input
    steps    layer -> how it was calibrated, of the same layers
    inputs   what the layers of the float network saw in calibration; with one shard of the float network only
    """

    columns: dict[str, np.ndarray]
    lanes: Lanes = field(default_factory=dict)
    steps: dict[str, Fitted] = field(default_factory=dict)
    inputs: tuple[LayerInput, ...] = ()

    def value(self, measure: str) -> float:
        return float(value_of(measure, self.columns[measure].mean(0)))

    def layers(self) -> tuple[LayerCoverage, ...]:
        """The layers with lanes, in the order they run."""
        return tuple(
            LayerCoverage(
                name, counts.zero_rate, counts.outlier_rate, counts.coverage if counts.outliers else None,
                expected_coverage(counts.zero_rate, cascade), *self.steps.get(name, ()),
            )
            for name, (counts, cascade) in self.lanes.items()
        )  # fmt: skip


def layers_to_json(found: Measured) -> dict[str, Any]:
    """All but the columns, as plain JSON values."""
    return {
        "lanes": {name: [*asdict(counts).values(), cascade] for name, (counts, cascade) in found.lanes.items()},
        "steps": found.steps,
        "inputs": [asdict(each) for each in found.inputs],
    }


def joined(columns: dict[str, np.ndarray], data: Any) -> Measured:
    """The columns and what `layers_to_json` gave (an earlier version: lanes only), put together.

    ValueError, TypeError, KeyError or AttributeError for what it does not give.
    """
    if not isinstance(data.get("lanes"), dict):
        data = {"lanes": data, "steps": {}, "inputs": []}
    lanes = {name: (Counts(*map(int, counts)), int(cascade)) for name, (*counts, cascade) in data["lanes"].items()}
    steps = {name: (str(label), _number(step), _number(sqnr)) for name, (label, step, sqnr) in data["steps"].items()}
    return Measured(columns, lanes, steps, tuple(map(LayerInput.from_json, data["inputs"])))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


@dataclass(frozen=True)
class Coverage:
    """Means over the layers; None where there is nothing to take the mean of. coverage, expected: over the layers that had outliers."""

    coverage: float | None
    expected: float | None
    zero_rate: float | None
    outlier_rate: float | None


def check_measure(name: Any) -> None:
    """Refuse what is neither a known measure nor spelled as a function in a file."""
    if not isinstance(name, str) or (name not in KNOWN and ".py:" not in name):
        raise InputError(f"a measure is one of {', '.join(KNOWN)}, or file.py:function, not {name!r}")


def scores_of(model: nn.Module, x: Any) -> torch.Tensor:
    """Scores float [N, classes] or [N, tokens, vocabulary] on the CPU, of a tensor or of what has `logits`.

    InputError where the network does not take the batch or gives something else.
    """
    try:
        with torch.no_grad():
            scores = run(model, moved(x, *home(model)))
    except (RuntimeError, ValueError, TypeError) as error:
        if "can't allocate memory" in str(error) or isinstance(error, torch.OutOfMemoryError):
            raise MemoryError from error
        shape = f" of shape {list(x.shape)}" if isinstance(x, torch.Tensor) else ""
        raise InputError(f"the network does not take images{shape}: {' '.join(str(error).split())[:200]}") from error
    scores = getattr(scores, "logits", scores)
    if not isinstance(scores, torch.Tensor):
        raise InputError(f"the network returned {type(scores).__name__}, not a tensor of class scores")
    return scores.float().cpu()


def all_scores(model: nn.Module, images: Images, positions: Sequence[int], batch_size: int, *, half: bool = False) -> torch.Tensor:
    """Scores of the images at `positions`, batch by batch: float32 [N, classes], or float16."""
    parts = [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
    kept = torch.float16 if half else torch.float32
    return torch.cat([scores_of(model, images.load(part)).to(kept) for part in parts]) if parts else torch.zeros(0, 1)


def measured(
    model: nn.Module,
    images: Images,
    positions: Sequence[int],
    batch_size: int,
    measures: Sequence[str],
    exact: torch.Tensor | None = None,
    progress: Callable[[int], None] = lambda images: None,
    known: torch.Tensor | None = None,
) -> Measured:
    """Run the images at `positions` through the model and measure.

    exact     the float network's scores of the same images, which sqnr, agreement and kl compare with
    progress  called with the number of images after every batch
    known     the model's own scores, where somebody has run it already
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in measures if name in KNOWN and name != COVERAGE}
    counted: AbstractContextManager[dict[str, Counts]] = count_lanes(model) if COVERAGE in measures else nullcontext({})
    with counted as lanes:
        for start in range(0, len(positions), batch_size) if found or COVERAGE in measures else ():
            part = positions[start : start + batch_size]
            scores = scores_of(model, images.load(part)) if known is None else known[start : start + len(part)]
            if TOP1 in found:
                labels = images.labels_below(scores.shape[1])[list(part)]
                found[TOP1].append((scores.argmax(1).numpy() == labels)[:, None].astype(float))
            if SQNR in found:
                assert exact is not None  # the caller knows its measures
                wanted = exact[start : start + len(part)].double()
                noise = (scores.double() - wanted).flatten(1).square().sum(1)
                found[SQNR].append(np.stack([wanted.flatten(1).square().sum(1).numpy(), noise.numpy()], 1))
            for name in found.keys() & set(TEXT):
                found[name].append(
                    next_tokens(name, scores, images.load(part), None if exact is None else exact[start : start + len(part)])
                )
            progress(len(part))
    columns = {name: np.concatenate(parts) if parts else np.zeros((0, 1)) for name, parts in found.items()}
    for name in measures:
        if name not in KNOWN:
            columns[name.rpartition("/")[2]] = _own(name, model, images, positions)
    layers = dict(model.named_modules())
    steps = {report.name: _fitted(report) for report in summary(model) if report.name in lanes} if lanes else {}
    return Measured(columns, {name: (counts, layers[name].lanes[0].cascade) for name, counts in lanes.items()}, steps)


def _fitted(report: LayerReport) -> Fitted:
    return "" if report.format is None else report.mode, report.step, report.sqnr if math.isfinite(report.sqnr) else None


def _own(name: str, model: nn.Module, images: Images, positions: Sequence[int]) -> np.ndarray:
    """What the user's function gives: float64 [images, 1]."""
    try:
        with torch.no_grad():
            scores = np.asarray(_function(name)(model, at(images, positions)), float)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"measure {name} failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if scores.shape != (len(positions),) or not np.isfinite(scores).all():
        raise InputError(f"measure {name} must give one finite score for each of {len(positions)} images, not {list(scores.shape)}")
    return scores[:, None]


@lru_cache(8)
def _function(name: str) -> Callable[..., Any]:
    return function_of(name)


def coverage(lanes: dict[str, tuple[Counts, int]]) -> Coverage:
    """Means over layers; expected is what independent zeros would give."""
    covered = [(counts, cascade) for counts, cascade in lanes.values() if counts.outliers]
    return Coverage(
        _mean([counts.coverage for counts, _ in covered]),
        _mean([expected_coverage(counts.zero_rate, cascade) for counts, cascade in covered]),
        _mean([counts.zero_rate for counts, _ in lanes.values()]),
        _mean([counts.outlier_rate for counts, _ in lanes.values()]),
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
