"""Run a cell. What many cells share is kept in the process: the float network and what its layers see, its scores, fitted steps."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from overq import datafree
from overq.compare import AGREEMENT, KL, PERPLEXITY
from overq.errors import CalibrationError, InputError
from overq.methods import Cost
from overq.nn import Observations, Recipe, observe
from overq.nn.bias import choose
from overq.nn.chosen import ENOUGH, Chosen
from overq.nn.folding import fold_rotation
from overq.nn.pieces import cut, misplaced, observe_in_pieces, observe_piece, piece_of, piece_to_bytes
from overq.records import LayerInput
from overq.study import digits
from overq.study.board import Board, made_together
from overq.study.cell import Cell
from overq.study.data import Batches, Images, from_tensors, open_images, some_of
from overq.study.measure import COVERAGE, SQNR, Measured, all_scores, measured
from overq.study.models import function_of, load_model
from overq.study.plan import Network, Setting
from overq.study.recipes import FOLDED, MIXES, install_recipe
from overq.study.seen import inputs_of
from overq.study.version import commit, package, versions
from overq.tune.sensitivity import Sensitivity, sensitivity

FLOAT_COST = Cost(32.0, 0.0, 32.0, 32)
_device = ContextVar("device", default="cpu")
_observers: ContextVar[tuple[Board, int] | None] = ContextVar("observers", default=None)
Outcome = tuple[Measured, Cost, float, dict[str, str]]  # what was measured, cost of a value, seconds, versions of what ran it


def evaluate(key: str, cell: Cell) -> Outcome:
    """Run the cell that the key stands for."""
    begin = time.perf_counter()
    if cell.key != key:
        raise InputError("the cell is not the one that its key stands for")
    if dict(cell.versions) != _running():
        raise InputError("the code or a library changed after the study was started; start it again")
    shared = replace(cell, setting=Setting("float"), shard=0)  # what cells of one network have in common
    model, cost = _installed(shared, cell.setting)
    images = _scored(shared)
    positions = cell.positions(images.count)
    exact = _exact(replace(cell, setting=Setting("float"))) if {SQNR, AGREEMENT, KL} & set(cell.measures) else None
    known = exact if cell.setting.method == "float" and PERPLEXITY not in cell.measures else None
    found = measured(model, images, positions, cell.batch_size, cell.measures, exact, known=known)
    if cell.setting.method == "float" and cell.shard == 0 and COVERAGE in cell.measures:
        found = replace(found, inputs=_inputs(shared))
    made_by = _running() | {"commit": commit(package())} | ({} if _device.get() == "cpu" else {"device": torch.cuda.get_device_name()})
    return found, cost, time.perf_counter() - begin, made_by


def _inputs(shared: Cell) -> tuple[LayerInput, ...]:
    """What the layers saw, for the report; settings of the network need the same observation, which the process keeps. () without one."""
    try:
        return inputs_of(_observed(shared, "images")[0])
    except (CalibrationError, InputError):  # the network's settings tell of it, where they need images
        return ()


@contextmanager
def on(device: str) -> Iterator[None]:
    """Within the block networks run on `device`, else on cores. What the process keeps stays where it is: one device for one process."""
    before = _device.set(device)
    try:
        yield
    finally:
        _device.reset(before)


@contextmanager
def sharing(board: Board | None, observers: int) -> Iterator[None]:
    """Within the block, calibration images are observed in so many pieces, those that other workers have made taken from the board."""
    before = _observers.set((board, observers) if board is not None and observers > 1 else None)
    try:
        yield
    finally:
        _observers.reset(before)


def alone(setting: Setting) -> str:
    """Why a setting's calibration, or a part of it, is each worker's own whatever its observers share; "" where it is not."""
    if setting.method == "float":
        return ""
    parameters, recipe = dict(setting.parameters), setting.recipe()
    if recipe.source != "images":
        return f"source {recipe.source}"
    return next((name for name in ("sequential", "reorder_network", "budget") if parameters.get(name) or getattr(recipe, name, False)), "")


def prepared(model: nn.Module) -> nn.Module:
    """The layout in which networks are run: convolutions take 0.5 to 0.9 of the time of the other."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def observed(
    model: nn.Module, recipe: Recipe, images: Images, batch_size: int, shape: Callable[[], Sequence[int]]
) -> tuple[Observations, Iterable[Any]]:
    """What the layers see, and the samples that show it, iterable again and again: `images`, or what the recipe's source makes.

    shape  gives that of one image
    """
    if recipe.source != "images":
        return datafree.seen(model, recipe, shape() if recipe.source == "distilled" else (), batch_size=batch_size)
    samples = Batches(images, batch_size)
    return observe(model, samples, seed=recipe.seed), samples


def correction_batch(samples: Iterable[Any]) -> list[Any]:
    """What bias correction runs: at most ENOUGH of the samples, in one batch."""
    if isinstance(samples, Batches):
        chosen = some_of(samples.images, ENOUGH)
        return [chosen.load(range(chosen.count))]
    return [torch.cat(tuple(samples))[:ENOUGH]]


@lru_cache(1)
def _running() -> dict[str, str]:
    """The versions that this process has loaded: a later change of the files does not reach it."""
    return versions()


@lru_cache(2)
def _model(network: Network) -> nn.Module:
    return prepared(load_model(network.model, Path(network.weights) if network.weights else None).to(_device.get()))


@lru_cache(1)
def _folded(network: Network) -> nn.Module:
    return fold_rotation(_model(network))


@lru_cache(3)
def _observed(cell: Cell, source: str, folded: bool = False) -> tuple[Observations, Iterable[Any]]:
    images = _calibration(cell) if source == "images" else _scored(cell)
    recipe = Recipe(source=source, seed=cell.seed)
    model = (_folded if folded else _model)(cell.network)
    if source == "images" and (shared := _observers.get()) is not None:
        samples = Batches(images, cell.batch_size)
        return _observed_together(model, samples, recipe.seed, f"{cell.key}{folded}", *shared), samples
    return observed(model, recipe, images, cell.batch_size, lambda: tuple(images.load([0]).shape[1:]))


def _observed_together(model: nn.Module, samples: Batches, seed: int, what: str, board: Board, observers: int) -> Observations:
    """As `observe`, bit for bit; this process runs the pieces that no other one does. what: all that the observation depends on."""
    ends = cut(samples.images.count, observers)
    named = [what, _device.get(), torch.get_num_threads(), samples.size, ends]
    name = hashlib.sha256(json.dumps(named).encode()).hexdigest()

    def piece(first: int, last: int | None, before: dict[str, int] | None = None) -> bytes:
        return piece_to_bytes(observe_piece(model, samples, first, last, seed=seed, before=before))

    pieces = [piece_of(content) for content in made_together(board, name, [partial(piece, *each) for each in ends])]
    wrong = misplaced(pieces)
    again = made_together(board, f"{name}-again", [partial(piece, *ends[i], before) for i, before in wrong.items()])
    for number, content in zip(wrong, again, strict=True):
        pieces[number] = piece_of(content)
    return observe_in_pieces(model, samples, pieces, seed=seed)


def _calibration(cell: Cell) -> Images:
    network = cell.network
    if network.calibration == "digits":
        images = from_tensors("digits", digits.images("calibration")[0])
    elif ".py:" in network.calibration:
        images = _made(network.calibration)
    else:
        images = open_images(Path(network.calibration), None, network.preprocess, labelled=False)
    return some_of(images, cell.samples or images.count)


@lru_cache(2)
def _scored(cell: Cell) -> Images:
    network = cell.network
    if network.images == "digits":
        images = from_tensors("digits", *digits.images("test"))
    elif ".py:" in network.images:
        images = _made(network.images)
    else:
        images = open_images(Path(network.images), Path(network.labels) if network.labels else None, network.preprocess)
    return some_of(images, cell.limit or images.count)


def _made(name: str) -> Images:
    """The Images that a function of the study's own gives: any batches that the network takes."""
    images = function_of(name)()
    if not isinstance(images, Images):
        raise InputError(f"{name} must give overq.study.data.Images, not {type(images).__name__}")
    return images


@lru_cache(64)
def _exact(cell: Cell) -> torch.Tensor:
    """The float network's scores of a shard. Those of every token have half precision: a vocabulary takes much memory."""
    images = _scored(replace(cell, shard=0))
    parts = cell.positions(images.count)
    return all_scores(_model(cell.network), images, parts, cell.batch_size, half={AGREEMENT, KL} & {*cell.measures} != set())


@lru_cache(1)
def _installed(cell: Cell, setting: Setting) -> tuple[nn.Module, Cost]:
    if setting.method == "float":
        return _model(cell.network), FLOAT_COST
    parameters, recipe = dict(setting.parameters), setting.recipe(cell.seed)
    folded = parameters.get(FOLDED, False)
    seen, samples = _observed(cell, recipe.source, folded)
    batch = _corrected_on(cell, recipe.source) if recipe.bias_correction else None
    model = (_folded if folded else _model)(cell.network)
    measured = partial(_sensitivity, cell, recipe.with_(bias_correction=False, sequential=False), parameters.get("loss", "mse"))
    return install_recipe(model, seen, samples, recipe, parameters, batch, measured)


@lru_cache(2)
def _corrected_on(cell: Cell, source: str) -> Chosen:
    """The samples that bias correction runs; what the float network gives on them is kept with them."""
    return choose(_model(cell.network), correction_batch(_observed(cell, source)[1]))


@lru_cache(1)
def _sensitivity(cell: Cell, recipe: Recipe, loss: str) -> Sensitivity:
    """What each layer alone loses in every candidate format, which is the same for every budget."""
    seen, samples = _observed(cell, recipe.source)
    return sensitivity(_model(cell.network), samples, MIXES["overq"], recipe=recipe, seen=seen, loss=loss)
