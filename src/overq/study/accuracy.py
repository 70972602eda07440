"""Top-1 of a network in float, plain and OverQ, with the coverage each setting reached: the main job."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

import overq
from overq import kernels
from overq.datafree import distill, observe_statistics
from overq.errors import CalibrationError, InputError
from overq.nn import Observations, Recipe, count_lanes, observe, quantize
from overq.nn.chosen import ENOUGH
from overq.nn.trees import home, moved
from overq.records import Accuracy, Evaluation, LayerCoverage
from overq.spec import Counts, Format, expected_coverage
from overq.study.data import Images

SOURCES = ("images", "statistics", "distilled")
PLAIN_BITS, BITS, CASCADES = (8, 6, 5, 4, 3), (4, 3), (1, 2, 4, 6)


@dataclass(frozen=True)
class Plan:
    """What to compare: plain at each of `plain_bits`; range and range + precision at each of `bits`, over `cascades`.

    source  what steps are chosen from: images, or no data: batch norm statistics, or images distilled from them
    bias_correction  as in `overq.Recipe`; on at most 64 of the images, in one batch
    """

    plain_bits: tuple[int, ...] = PLAIN_BITS
    bits: tuple[int, ...] = BITS
    cascades: tuple[int, ...] = CASCADES
    policy: str = "first"
    weight_bits: int = 8
    calibration: str = "format-mse"
    batch_size: int = 64
    seed: int = 0
    source: str = "images"
    bias_correction: bool = False

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise InputError(f"the calibration source must be one of {', '.join(SOURCES)}, not {self.source!r}")
        if self.source == "statistics" and self.bias_correction:
            raise InputError("bias correction needs images: the calibration source statistics has none, distilled makes some")

    def formats(self) -> Iterator[Format]:
        """In the order they are run."""
        for bits in self.plain_bits:
            yield Format.plain(bits)
        for bits in self.bits:
            for precision in (False, True):
                for cascade in self.cascades:
                    yield Format(bits, cascade, precision_overwrite=precision, policy=self.policy)

    def recipe(self, fmt: Format) -> Recipe:
        """The whole-model recipe of one format; first layer and classifier keep the recipe's 8 plain bits and 8-bit weights."""
        return Recipe(fmt, self.weight_bits, self.calibration, seed=self.seed, bias_correction=self.bias_correction)


def evaluate(
    model: nn.Module,
    images: Images,
    plan: Plan,
    *,
    model_name: str,
    calibration: Images | None = None,
    samples: int = 256,
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> Evaluation:
    """Run the plan.

    images       scored; labels needed
    calibration  images for calibration, labels unused; None takes `samples` of `images`, evenly spread, and does not score them;
                 not used, and all images scored, where the plan's source is not images
    progress     called with (setting, images done, images to do) after every batch
    """
    recipes = [plan.recipe(fmt) for fmt in plan.formats()]  # refuse a senseless plan before anything runs
    scored, chosen = _split(images, calibration, samples) if plan.source == "images" else (_all(images), ())
    _check_first_batch(model, images, scored[:1])
    total = len(scored) * (len(recipes) + 1)
    done = 0

    def tick(label: str, count: int) -> None:
        nonlocal done
        done += count
        progress(label, done, total)

    progress("calibration", 0, total)
    seen, corrected_on = _observations(model, plan, calibration or images, chosen)
    results = [_float(model, images, scored, plan, tick)]
    results += [_quantized(model, seen, corrected_on, recipe, images, scored, plan, tick) for recipe in recipes]
    corrected = ["bias corrected"] if plan.bias_correction else []
    return Evaluation(
        model=model_name,
        data=images.name,
        calibration=", ".join([plan.calibration, *([plan.source] if plan.source != "images" else []), *corrected]),
        calibration_images=len(chosen),
        seed=plan.seed,
        backend=kernels.get("auto").__name__.rpartition(".")[2],
        versions={"overq": overq.__version__, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        results=tuple(results),
    )


def _observations(model: nn.Module, plan: Plan, source: Images, chosen: Sequence[int]) -> tuple[Observations, list[torch.Tensor]]:
    """What the layers see, from the images at `chosen` or from the model alone; and the batch that bias correction runs, if it does."""
    if plan.source == "statistics":
        return observe_statistics(model, seed=plan.seed), []
    if plan.source == "distilled":
        made = distill(model, tuple(source.load([0]).shape[1:]), seed=plan.seed)
        return observe(model, made, seed=plan.seed), [made[:ENOUGH]]
    batch = [source.load([chosen[i] for i in _spread(len(chosen), ENOUGH)])] if plan.bias_correction else []
    return observe(model, source.batches(plan.batch_size, chosen), seed=plan.seed), batch


def _all(images: Images) -> Sequence[int]:
    if images.labels is None:
        raise InputError(f"{images.name}: labelled images are needed")
    return range(images.count)


def _split(images: Images, calibration: Images | None, samples: int) -> tuple[Sequence[int], Sequence[int]]:
    """(positions to score, positions to calibrate on)."""
    everything = _all(images)
    if samples < 1:
        raise CalibrationError(f"at least one calibration image is needed, not {samples}")
    if calibration is not None:
        return everything, _spread(calibration.count, samples)
    if samples >= images.count:
        raise CalibrationError(
            f"{samples} of {images.count} images for calibration leave none to score: give --calibration-images or fewer --samples"
        )
    chosen = _spread(images.count, samples)
    return [i for i in range(images.count) if i not in set(chosen)], chosen


def _spread(count: int, wanted: int) -> list[int]:
    return [i * count // min(wanted, count) for i in range(min(wanted, count))]


def _check_first_batch(model: nn.Module, images: Images, first: Sequence[int]) -> None:
    """One image through the network: a wrong shape or class count shows now, not after minutes."""
    x = images.load(first)
    logits = _logits(model, x)
    if logits.ndim != 2 or len(logits) != len(x):
        raise InputError(f"the network gave {list(logits.shape)} for {list(x.shape)} images; class scores [N, classes] are needed")
    images.labels_below(logits.shape[1])


def _logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    try:
        with torch.no_grad():
            logits = model(moved(x, *home(model)))
    except (RuntimeError, ValueError, TypeError) as error:
        if "can't allocate memory" in str(error) or isinstance(error, torch.OutOfMemoryError):
            raise MemoryError from error
        raise InputError(f"the network does not take images of shape {list(x.shape)}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"the network returned {type(logits).__name__}, not a tensor of class scores")
    return logits


def _correct(model: nn.Module, images: Images, scored: Sequence[int], plan: Plan, label: str, tick: Callable[[str, int], None]) -> int:
    assert images.labels is not None
    correct = 0
    for start in range(0, len(scored), plan.batch_size):
        positions = scored[start : start + plan.batch_size]
        predicted = _logits(model, images.load(positions)).argmax(1).cpu().numpy()
        correct += int((predicted == images.labels[list(positions)]).sum())
        tick(label, len(positions))
    return correct


def _float(model: nn.Module, images: Images, scored: Sequence[int], plan: Plan, tick: Any) -> Accuracy:
    start = time.perf_counter()
    correct = _correct(model, images, scored, plan, "float", tick)
    return Accuracy("float", 32, 32, "", 0, "", correct, len(scored), time.perf_counter() - start)


def _quantized(
    model: nn.Module,
    seen: Observations,
    samples: list[torch.Tensor],
    recipe: Recipe,
    images: Images,
    scored: Sequence[int],
    plan: Plan,
    tick: Any,
) -> Accuracy:
    start, fmt = time.perf_counter(), recipe.format
    setting = Accuracy(
        "overq" if fmt.cascade else "plain", fmt.bits, plan.weight_bits, "+".join(fmt.modes), fmt.cascade, fmt.policy, 0, len(scored), 0.0
    )
    quantized = quantize(model, samples, recipe, seen=seen)
    with count_lanes(quantized) as counts:
        correct = _correct(quantized, images, scored, plan, setting.label, tick)
    layers = tuple(_layer(name, count, fmt) for name, count in counts.items())
    covered = [layer for layer in layers if layer.coverage is not None]
    return replace(
        setting,
        correct=correct,
        seconds=time.perf_counter() - start,
        coverage=_mean(layer.coverage for layer in covered if layer.coverage is not None),
        expected_coverage=_mean(layer.expected_coverage for layer in covered),
        zero_rate=_mean(layer.zero_rate for layer in layers),
        outlier_rate=_mean(layer.outlier_rate for layer in layers),
        layers=layers,
    )


def _layer(name: str, counts: Counts, fmt: Format) -> LayerCoverage:
    coverage = counts.coverage if counts.outliers else None
    return LayerCoverage(name, counts.zero_rate, counts.outlier_rate, coverage, expected_coverage(counts.zero_rate, fmt.cascade))


def _mean(values: Iterator[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
