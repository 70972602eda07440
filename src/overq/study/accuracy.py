"""Top-1 of a network in float, plain and OverQ, with the coverage each setting reached: the main job."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

import overq
from overq import kernels
from overq.errors import CalibrationError, InputError
from overq.nn import Recipe
from overq.records import Accuracy, Evaluation
from overq.spec import Format
from overq.study.data import Images, at
from overq.study.evaluate import correction_batch, observed, prepared
from overq.study.measure import COVERAGE, TOP1, coverage, measured, scores_of
from overq.study.recipes import installed
from overq.study.seen import inputs_of

PLAIN_BITS, BITS, CASCADES = (8, 6, 5, 4, 3), (4, 3), (1, 2, 4, 6)


@dataclass(frozen=True)
class Plan:
    """What to compare: plain at each of `plain_bits`; range and range + precision at each of `bits`, over `cascades`.

    source  as in `overq.Recipe`: what steps are chosen from
    bias_correction  as in `overq.Recipe`; on at most 64 of the images, in one batch
    given   (name, recipe) pairs that are run in place of all that, with the batch size
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
    given: tuple[tuple[str, Recipe], ...] = ()

    def __post_init__(self) -> None:
        _ = self.recipe(Format())  # checks them
        for name in ("seed", "source"):
            if len({getattr(recipe, name) for _, recipe in self.given}) > 1:
                raise InputError(f"the recipes have different {name}s, and share one observation: run them one by one")

    def formats(self) -> Iterator[Format]:
        """In the order they are run."""
        for bits in self.plain_bits:
            yield Format.plain(bits)
        for bits in self.bits:
            for precision in (False, True):
                for cascade in self.cascades:
                    yield Format(bits, cascade, fraction_bits=None if precision else 0, policy=self.policy)

    def recipes(self) -> list[tuple[str, Recipe]]:
        """(name, recipe) of all that is run; recipes of one format have no name."""
        return list(self.given) or [("", self.recipe(fmt)) for fmt in self.formats()]

    def recipe(self, fmt: Format) -> Recipe:
        """The whole-model recipe of one format; first layer and classifier keep the recipe's 8 plain bits and 8-bit weights."""
        return Recipe(fmt, self.weight_bits, self.calibration, seed=self.seed, bias_correction=self.bias_correction, source=self.source)


def evaluate(
    model: nn.Module,
    images: Images,
    plan: Plan,
    *,
    model_name: str,
    calibration: Images | None = None,
    samples: int = 256,
    unlabelled: bool = False,
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> Evaluation:
    """Run the plan.

    images       scored; labels needed
    unlabelled   nobody has labelled the images: the float network's answers are their labels, so top-1 is agreement with it, and the
                 record's `data` says so
    calibration  images for calibration, labels unused; None takes `samples` of `images`, evenly spread, and does not score them;
                 not used, and all images scored, where the recipes' source is not images
    progress     called with (setting, images done, images to do) after every batch
    """
    recipes = plan.recipes()  # refuse a senseless plan before anything runs
    if not recipes:
        raise InputError("nothing to run: no format is asked for")
    if images.labels is None and not unlabelled:
        raise InputError(f"{images.name}: labelled images are needed")
    given = recipes[0][1]  # all share seed and source
    scored, chosen = _split(images, calibration, samples) if given.source == "images" else (range(images.count), ())
    _check_first_batch(model, images, scored[:1])
    total = len(scored) * (len(recipes) + 1)
    done = 0

    def tick_of(label: str, count: int) -> None:
        nonlocal done
        done += count
        progress(label, done, total)

    model = prepared(copy.deepcopy(model))
    watched = (calibration or images).watched(lambda done: progress("calibration", done, len(chosen)))
    shape = lambda: tuple(images.load([0]).shape[1:])  # noqa: E731
    seen, calibrated = observed(model, given, at(watched, chosen), plan.batch_size, shape)
    batch = correction_batch(calibrated) if any(recipe.bias_correction for _, recipe in recipes) else None
    results = []
    for name, recipe in (("", None), *recipes):
        start, setting = time.perf_counter(), _setting(name, recipe, len(scored))
        network = model if recipe is None else installed(model, seen, calibrated, recipe, batch)
        tick = partial(tick_of, setting.label)
        known = None
        if recipe is None and unlabelled:
            known = torch.cat([scores_of(network, batch) for batch in images.batches(plan.batch_size, scored)])
            images = _answered(images, scored, known)
        measures = (TOP1,) if recipe is None else (TOP1, COVERAGE)
        found = measured(network, images, scored, plan.batch_size, measures, known=known, progress=tick)
        mean = coverage(found.lanes)
        results.append(replace(
            setting, correct=int(found.columns[TOP1].sum()), seconds=time.perf_counter() - start,
            coverage=mean.coverage, expected_coverage=mean.expected, zero_rate=mean.zero_rate, outlier_rate=mean.outlier_rate,
            layers=found.layers(),
            right=np.packbits(found.columns[TOP1][:, 0] > 0).tobytes().hex(),
        ))  # fmt: skip
    corrected = ["bias corrected"] if plan.bias_correction else []
    how = [plan.calibration] if not plan.given else list(dict.fromkeys(recipe.calibration for _, recipe in recipes))
    return Evaluation(
        model=model_name,
        data=images.name,
        calibration=", ".join([*how, *([given.source] if given.source != "images" else []), *corrected]),
        calibration_images=len(chosen),
        seed=given.seed,
        backend=kernels.get("auto").__name__.rpartition(".")[2],
        versions={"overq": overq.__version__, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        results=tuple(results),
        inputs=inputs_of(seen),
    )


def _answered(images: Images, scored: Sequence[int], scores: torch.Tensor) -> Images:
    """The images at `scored` with the class of the greatest of their scores as label."""
    labels = np.zeros(images.count, np.int64)
    labels[list(scored)] = scores.argmax(1).numpy()
    return replace(images, name=f"{images.name} (labels: the float network's own answers)", labels=labels)


def _split(images: Images, calibration: Images | None, samples: int) -> tuple[Sequence[int], Sequence[int]]:
    """(positions to score, positions to calibrate on)."""
    if samples < 1:
        raise CalibrationError(f"at least one calibration image is needed, not {samples}")
    if calibration is not None:
        return range(images.count), _spread(calibration.count, samples)
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
    scores = scores_of(model, x)
    if scores.ndim != 2 or len(scores) != len(x):
        raise InputError(f"the network gave {list(scores.shape)} for {list(x.shape)} images; class scores [N, classes] are needed")
    if images.labels is not None:
        images.labels_below(scores.shape[1])


def _setting(name: str, recipe: Recipe | None, images: int) -> Accuracy:
    """The record before it is measured; None is float."""
    if recipe is None:
        return Accuracy("float", 32, 32, "", 0, "", 0, images, 0.0, stored_bits=32)
    fmt = recipe.method.format(False)  # type: ignore[union-attr]  # a recipe turns formats into methods
    if fmt is None:
        return Accuracy(recipe.method.describe(), recipe.method.bits, recipe.weight_bits, "", 0, "", 0, images, 0.0, recipe=name)  # type: ignore[union-attr]
    kind = "overq" if fmt.cascade else "plain"
    return Accuracy(
        kind, fmt.bits, recipe.weight_bits, "+".join(fmt.modes), fmt.cascade, fmt.policy, 0, images, 0.0, recipe=name,
        format=fmt.label, stored_bits=fmt.bits + fmt.state_bits,
    )  # fmt: skip
