"""The self-check of an integer network: every step beside the simulation's, within what its own rounding may do.

Each step is given the simulation's inputs, rounded down to its streams' units, so that errors do not add up and the bound is one of a
single step: a unit for each value that was rounded, and the multiplier's 16 bits. What a wrong option or an overlooked in-place
operation does is far beyond it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from overq.errors import InputError
from overq.integer.steps import Step
from overq.integer.streams import Stream
from overq.nn import kinds
from overq.nn.graph import Graph
from overq.nn.quantized import Quantized

if TYPE_CHECKING:
    from overq.integer.network import IntegerNetwork

RELATIVE = 2.0**-12  # a multiplier is right to 2^-16, and the simulation itself is float32


def compare(network: IntegerNetwork, graph: Graph, model: nn.Module, batch: Any) -> float:
    """SQNR of the integer network's output on the batch, in dB. InputError names the first step that parts from the simulation."""
    if not isinstance(batch, Tensor):
        raise InputError(f"check must be one input tensor of the model, not {type(batch).__name__}")
    home = next(model.parameters())
    x = batch.detach().to(home.device, home.dtype)
    with torch.no_grad():
        simulated = {node.name: _kept(value) for node, value in graph.run(x.clone())}
        expected = _traced_as_it_runs(graph, model, x, simulated)
        for step in network.steps:
            if step.kind in ("layer", "rescale", "same") and not _weighs(step):
                _compare(network, step, simulated)
        error = network(x.cpu()).double() * network.unit - expected
    power = float(error.square().sum())
    return math.inf if power == 0 else 10 * math.log10(max(float(expected.square().sum()), 1e-300) / power)


def _traced_as_it_runs(graph: Graph, model: nn.Module, x: Tensor, simulated: dict[str, Any]) -> Tensor:
    """The model's own output; refused where the graph that was read gives another."""
    calls: list[tuple[nn.Module, Tensor]] = []
    training = {module: module.training for module in model.modules()}
    hooks = [
        m.register_forward_hook(lambda m, args, out: calls.append((m, out.detach().clone())))
        for m in model.modules()
        if isinstance(m, Quantized)
    ]
    try:
        expected = model.eval()(x.clone())
        again = model(x.clone())
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    read = [node for node in graph.nodes if isinstance(node.module, Quantized)]  # also those whose output nobody needs
    for node, (module, value) in zip(read, calls, strict=False):
        if module is not node.module or (node.name in simulated and not _close(simulated[node.name], value)):
            raise InputError(f"{node.why}: the model computes something else here than its trace (in-place operations, hooks, state)")
    if not isinstance(expected, Tensor) or not _close(simulated[graph.nodes[-1].name], expected):
        raise InputError("the model's output is not that of its trace (in-place operations, hooks, state)")
    if not _close(again, expected):
        raise InputError("the model gives another output each time it runs (random operations, state)")
    return expected.detach().cpu().double()


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return float((a - b).abs().max()) <= 1e-3 * float(b.abs().max()) if a.numel() else True


def _compare(network: IntegerNetwork, step: Step, simulated: dict[str, Any]) -> None:
    values = [_rounded(network, name, simulated) for name in step.inputs]
    wanted = simulated[step.node.name]
    stream = network.streams[step.name]
    slack = stream.unit
    if step.kind == "layer":
        layer = network.layers[step.name]
        source = next(s for s in network.steps if s.name == step.inputs[0])
        t = layer.fixed(simulated[source.node.name].cpu())
        off = (network.reading(step, values[0]) - t).abs().double()
        if bool((off > 2 + RELATIVE * t.abs()).any()):
            raise _parts(step, "what it reads", float(off.max()), 2.0)
        got = network.entered(step, network.accumulated(step, t))
        slack += RELATIVE * max((abs(c) for c in _offsets(network, step)), default=0.0)
    else:
        got = network.step(step, values)
        gain = 1 + abs(getattr(step.node.op, "alpha", 1.0))
        if step.kind == "rescale":
            assert step.apply is not None  # as every rescaling step has
            count, divisor = step.apply(*(torch.ones_like(value) for value in values))
            gain = float((count / divisor).max()) * max(map(abs, step.affine[0]))
        slack += gain * sum(network.streams[name].unit for name in step.inputs if name in network.streams)
    for mine, real in zip(_flat(got), _flat(wanted), strict=True):
        _bounded(step, stream, mine, real, slack)


def _bounded(step: Step, stream: Stream, mine: Tensor, value: Tensor, slack: float) -> None:
    real, precision = value.detach().cpu().double(), torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
    if mine.shape != real.shape:
        raise InputError(f"{step.node.why}: integers of shape {list(mine.shape)}, the simulation's values have {list(real.shape)}")
    if not real.numel():
        return
    real = real.clamp(stream.low * stream.unit, stream.high * stream.unit)
    error = float((mine.double() * stream.unit - real).abs().max())
    bound = 2 * slack + max(RELATIVE, 8 * precision) * float(real.abs().max())
    if not error <= bound:
        raise _parts(step, "its integers", error, bound)


def _parts(step: Step, what: str, error: float, bound: float) -> InputError:
    return InputError(f"{step.node.why}: {what} part from the simulation by {error:.4g}, where rounding explains {bound:.4g}")


def _offsets(network: IntegerNetwork, step: Step) -> list[float]:
    entry = network.entries[step.name]
    return (entry.offset.double() / 2.0 ** entry.shift.double() * network.streams[step.name].unit).tolist()


def _rounded(network: IntegerNetwork, name: str, simulated: dict[str, Any]) -> Any:
    """The simulation's value of a step in the integers of its stream; extents as they are."""
    source = next(s for s in network.steps if s.name == name)
    value = simulated[source.node.name]
    if source.kind == "number":
        return value
    if _weighs(source):
        return network.step(source, [_rounded(network, name, simulated) for name in source.inputs])
    enter = network.streams[name].enter
    return tuple(enter(part.cpu()) for part in value) if isinstance(value, (tuple, list)) else enter(value.cpu())


def _weighs(step: Step) -> bool:
    """An addition's alpha: the simulation has no value for it."""
    return step.kind == "rescale" and isinstance(step.node.op, kinds.Add)


def _kept(value: Any) -> Any:
    """A copy: operations in place come later."""
    return tuple(map(_kept, value)) if isinstance(value, (tuple, list)) else value.clone() if isinstance(value, Tensor) else value


def _flat(value: Any) -> list[Tensor]:
    return list(value) if isinstance(value, (tuple, list)) else [value]
