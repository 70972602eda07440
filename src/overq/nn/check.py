"""The self-check of `quantize`: with its quantizers switched off the copy is the float model, and every quantizer runs.

A few samples go through the float model, its layers watched, and without gradients through the copy, whose layers have their float weights
(arranged as the quantized ones, one at a time) and pass their inputs on. Outputs must be equal, up to rounding where channels were scaled
or moved, and each quantizer must have run as often as its layer was called. A fused path, a lost hook, a weight that is computed
elsewhere, a patched call: whatever would make the copy something else than its summary says shows here, with the layer's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import nn

from overq.errors import FidelityError
from overq.nn.chosen import Chosen
from overq.nn.layers import as_held, outputs_first
from overq.nn.quantized import Quantized
from overq.nn.replica import fingerprint, replica, unwritten, written
from overq.nn.samples import Part
from overq.nn.sites import Multiplies

ROWS = 4  # samples that are run, where they can be told apart


def check_copy(
    model: nn.Module, quantized: nn.Module, floats: dict[str, torch.Tensor], chosen: Chosen, held: dict[str, torch.Tensor] | None = None
) -> None:
    """Raise FidelityError where `quantized` is not `model` with quantizers.

    floats  the float weight of each quantized layer, by dotted name
    chosen  samples of the calibration
    held    the float parameters that functions multiply with and that are quantized, by dotted name
    """
    kept = Floats(floats, held or {})
    if not (kept or kept.held) or not chosen.units:
        return
    with unwritten(model):
        _check(model, quantized, kept, chosen)


def _check(model: nn.Module, quantized: nn.Module, kept: Floats, chosen: Chosen) -> None:
    unit = chosen.units[0]
    run = _Runner(chosen, unit.cut(0, ROWS) if unit.rows and unit.rows > ROWS else unit)
    try:
        wanted, calls = _float(model, kept, run)
    except Exception:  # a model for whole batches only
        run = _Runner(chosen, unit)
        wanted, calls = _float(model, kept, run)
    got, ran = _off(quantized, kept, run)
    for name in kept:
        if calls[name] != ran[name]:
            raise FidelityError(
                f"layer {name!r}: its quantizer ran {ran[name]} times where the float layer is called {calls[name]} times: "
                "something computes with its weights without calling it"
            )
    moved = any(layer.arrangement.moves for _, layer in _layers(quantized, kept))
    moved = moved or any(isinstance(m, Multiplies) for m in quantized.modules())
    if same(wanted, got, exact=not moved):
        return
    if not same(wanted, _float(model, kept, run)[0], exact=False):
        return  # the float model itself does not give one answer: there is nothing to compare with
    raise FidelityError(f"{_culprit(model, quantized, kept, run)}; quantize(..., check=False) does without this check")


class Floats(dict[str, torch.Tensor]):
    """Float weights of layers by name; held: of parameters that functions multiply with."""

    def __init__(self, layers: dict[str, torch.Tensor], held: dict[str, torch.Tensor]) -> None:
        super().__init__(layers)
        self.held = held


@dataclass(frozen=True)
class _Runner:
    """The model's answer to a few samples, without gradients and with the same random numbers each time."""

    chosen: Chosen
    unit: Part

    def __call__(self, model: nn.Module) -> Any:
        with torch.random.fork_rng(), self.chosen.running(model) as answer:
            torch.manual_seed(0)
            return answer(self.unit)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in a model's input or output, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))


def same(wanted: Any, got: Any, *, exact: bool) -> bool:
    """Whether two outputs hold the same numbers; inexactly: up to what sums of another order and scaled weights round differently."""
    ours, theirs = list(tensors(wanted)), list(tensors(got))
    return len(ours) == len(theirs) and all(_alike(a, b, exact) for a, b in zip(ours, theirs, strict=True))


def _alike(a: torch.Tensor, b: torch.Tensor, exact: bool) -> bool:
    if a.is_nested or b.is_nested:
        return a.is_nested == b.is_nested and same(a.unbind(), b.unbind(), exact=exact)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point() and not a.is_complex():
        return not exact or torch.equal(a, b)
    if torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isfinite(), b.isfinite()):
        return True
    # Even of the same function two runs may differ in the last bits: kernels choose by memory layout and alignment.
    allowed = max(torch.finfo(a.dtype).eps, torch.finfo(torch.float32).eps) ** 0.5
    finite = a.isfinite() & b.isfinite()
    off, size = (torch.where(finite, v, 0).double().norm() for v in (a - b, a))
    return torch.equal(a.isfinite(), b.isfinite()) and bool(off <= allowed * size)


def _float(model: nn.Module, floats: dict[str, Any], run: _Runner, outputs: Any = None) -> tuple[Any, Counter[str]]:
    """Output of the float model, and how often each of the layers was called; with their outputs, if wanted."""
    trial, calls = replica(model, borrow=True), Counter[str]()
    modules = dict(trial.named_modules())

    def watch(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            calls[name] += 1
            if outputs is not None:
                outputs.append((name, output.detach().clone()))

        return hook

    for name in floats:
        modules[name].register_forward_hook(watch(name))
    return run(trial), calls


def _off(quantized: nn.Module, floats: Floats, run: _Runner, outputs: Any = None) -> tuple[Any, Counter[str]]:
    """Output of the copy with its quantizers switched off and its float weights back, and how often each would have quantized."""
    trial, ran = replica(quantized, borrow=True), Counter[str]()
    running: list[tuple[Quantized, torch.Tensor]] = []  # the layer that holds its float weight, and the weight that is its own

    def give_back() -> None:
        while running:
            layer, weight = running.pop()
            layer.weight.data = weight

    def passing(name: str, layer: Quantized) -> Any:
        def quantize_input(x: torch.Tensor) -> torch.Tensor:
            ran[name] += 1
            give_back()
            running.append((layer, layer.weight.detach()))
            layer.weight.data = as_held(layer, layer.arrangement.cpu().weight(outputs_first(layer, floats[name])))
            return layer.arranged(x)

        return quantize_input

    for name, layer in _layers(trial, floats):
        layer.quantize_input = passing(name, layer)  # type: ignore[method-assign]
        if outputs is not None:
            layer.register_forward_hook(lambda module, args, output, name=name: outputs.append((name, output.detach().clone())))
    for module in trial.modules():
        if isinstance(module, Multiplies):
            for factor in module.overq_calls.factors():
                factor.off = True
                if (value := floats.held.get(factor.site.name)) is not None:
                    module._parameters[factor.site.key].data = value  # type: ignore[union-attr]
    before = {name: fingerprint(layer.weight) for name, layer in _layers(trial, floats)}
    output = run(trial)
    give_back()
    for name, layer in _layers(trial, floats):
        if fingerprint(layer.weight) != before[name]:
            raise written(name)
    return output, ran


def _layers(model: nn.Module, names: Any) -> Iterator[tuple[str, Quantized]]:
    for name, module in model.named_modules():
        if name in names and isinstance(module, Quantized):
            yield name, module


def _culprit(model: nn.Module, quantized: nn.Module, floats: Floats, run: _Runner) -> str:
    """The first layer whose output differs, in words."""
    wanted: list[tuple[str, torch.Tensor]] = []
    got: list[tuple[str, torch.Tensor]] = []
    _float(model, floats, run, wanted)
    _off(quantized, floats, run, got)
    for (name, a), (other, b) in zip(wanted, got, strict=False):
        if name != other:
            return f"layer {other!r}: the copy calls it where the float model calls {name!r}"
        if not same(a, b, exact=False):
            return f"layer {name!r}: with its quantizer switched off, the copy of it computes something else than the float layer"
    last = f"behind its quantized layers, the last of which is {wanted[-1][0]!r}" if wanted else "in what it multiplies by functions"
    return f"the copy computes something else than the float model {last}"
