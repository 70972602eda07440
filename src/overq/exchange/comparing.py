"""A network that was read beside onnxruntime, which answers first and has left memory when the file is read here."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from overq.errors import InputError, ToolError
from overq.exchange.reading import library, loaded

TOLERANCE = 1e-4  # of the largest output
FLOOR = 1e-6  # what float32 may do to an output that is all but zero, as of a sigmoid that says no everywhere


@dataclass(frozen=True)
class Answers:
    """Of onnxruntime: inputs and outputs by name; note: why there are none; fault: what is wrong where it can be read nevertheless."""

    given: tuple[Tensor, ...] = ()
    outputs: dict[str, np.ndarray] | None = None
    note: str = ""
    fault: str = ""


def asked(path: Path, samples: Tensor | Sequence[Tensor] | None) -> Answers:
    """onnxruntime's answers to the samples; without them, to random inputs of the shapes that the file tells."""
    try:
        runtime = library("onnxruntime")
    except ToolError:
        return Answers(note="not compared: onnxruntime is not installed")
    try:
        loaded(path)  # and forget it: onnxruntime is shown no file whose data lie elsewhere
    except InputError:
        return Answers()  # who reads the file next says so
    gc.collect()  # the file's graph is full of cycles
    options = runtime.SessionOptions()
    options.log_severity_level, options.enable_cpu_mem_arena, options.enable_mem_pattern = 4, False, False
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL  # each would keep a copy of the weights
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an exception of its own for every kind of fault
        return Answers(fault=f"onnxruntime does not run it: {' '.join(str(error).split())[:160]}")
    inputs = session.get_inputs()
    drawn = [_random(v) for v in inputs] if samples is None else [samples] if isinstance(samples, Tensor) else list(samples)
    if len(drawn) != len(inputs):
        called = ", ".join(v.name for v in inputs)
        return Answers(fault=f"it has {len(inputs)} inputs ({called}), but {len(drawn)} samples were given")
    given = tuple(tensor for tensor in drawn if tensor is not None)
    if len(given) < len(inputs):
        return Answers(note="not compared: the file does not tell the shape of its inputs; give samples")
    names = [v.name for v in session.get_outputs()]
    try:
        outputs = session.run(names, {v.name: t.numpy() for v, t in zip(inputs, given, strict=True)})
    except Exception as error:
        why = " ".join(str(error).split())
        if samples is None:
            return Answers(note=f"not compared: onnxruntime does not run it on random inputs ({why[:80]}); give samples")
        return Answers(fault=f"onnxruntime does not run it on these samples: {why[:160]}")
    return Answers(given, dict(zip(names, outputs, strict=True)))


def compared(path: Path, network: nn.Module, answers: Answers) -> list[str]:
    """Notes. InputError where the network parts from the answers."""
    if answers.fault:
        raise InputError(f"{path}: {answers.fault}")
    if answers.outputs is None:
        return [answers.note]
    try:
        with torch.no_grad():
            ours = network(*answers.given)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{path}: it does not run here: {' '.join(str(error).split())[:160]}") from error
    for (name, other), mine in zip(answers.outputs.items(), ours if isinstance(ours, tuple) else (ours,), strict=True):
        _close(path, name, np.asarray(mine), np.asarray(other))
    return []


def _close(path: Path, name: str, mine: np.ndarray, other: np.ndarray) -> None:
    if mine.shape != other.shape:
        raise InputError(f"{path}: output {name!r} has shape {list(mine.shape)} here and {list(other.shape)} in onnxruntime")
    error = float(np.abs(mine.astype(np.float64) - other.astype(np.float64)).max()) if mine.size else 0.0
    largest = float(np.abs(other.astype(np.float64)).max()) if mine.size else 1.0
    if not error <= max(TOLERANCE * largest, FLOOR):
        raise InputError(f"{path}: output {name!r} differs from onnxruntime's by {error:.3g}, its largest value is {largest:.3g}")


def _random(value: Any) -> Tensor | None:
    """Standard normal numbers of the input's shape, one sample where its first extent is open; None where others are."""
    if value.type != "tensor(float)":
        return None
    shape = [2 if i == 0 and not isinstance(size, int) else size for i, size in enumerate(value.shape)]
    if not all(isinstance(size, int) and size > 0 for size in shape):
        return None
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
