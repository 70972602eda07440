"""An exported file beside the simulation: onnxruntime's answers, and those of the quantized network in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from overq.errors import InputError
from overq.exchange.reading import library

BATCH = 32


@dataclass(frozen=True)
class Beside:
    """images; same: on how many the greatest score has the same place; largest: difference of a score, of the largest score."""

    images: int
    same: int
    largest: float

    def __str__(self) -> str:
        return f"the same class on {self.same} of {self.images}, largest difference {self.largest:.1e} of the largest score"


def beside(path: Path, model: nn.Module, x: Tensor) -> Beside:
    """Of a file in form `exact` and the model that it was written from, on inputs x [N, ...].

    The simulation runs in float64, where no order of additions changes an answer: float32's own sums now and then fall on the other side of
    a rounding step. Raises InputError where either does not run.
    """
    options = library("onnxruntime").SessionOptions()
    options.log_severity_level = 4
    try:
        session = library("onnxruntime").InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        theirs = np.concatenate([session.run(None, {name: part.numpy()})[0] for part in x.split(BATCH)])
    except Exception as error:  # onnxruntime has an exception of its own for every kind of fault
        raise InputError(f"{path}: onnxruntime does not run it: {' '.join(str(error).split())[:160]}") from error
    ours = in_float64(model, x)
    if ours.shape != theirs.shape:
        raise InputError(f"{path}: onnxruntime gives {list(theirs.shape)} scores, the simulation {list(ours.shape)}")
    return _compared(theirs.astype(np.float64), ours)


def in_float64(model: nn.Module, x: Tensor) -> np.ndarray:
    """The answers of a copy of the quantized model in float64: the first output, float64."""
    wide = copy.deepcopy(model).double()
    try:
        with torch.no_grad():
            made: list[Any] = [wide(part.double()) for part in x.split(BATCH)]
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"the network does not run in float64: {' '.join(str(error).split())[:160]}") from error
    return np.concatenate([np.asarray(y[0] if isinstance(y, tuple) else y) for y in made])


def _compared(theirs: np.ndarray, ours: np.ndarray) -> Beside:
    rows = [(a.reshape(-1), b.reshape(-1)) for a, b in zip(theirs, ours, strict=True)]
    same = sum(int(a.argmax()) == int(b.argmax()) for a, b in rows)
    largest = float(np.abs(ours).max(initial=0.0))
    return Beside(len(ours), same, float(np.abs(theirs - ours).max(initial=0.0)) / largest if largest else 0.0)
