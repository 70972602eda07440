"""Which channels of a network may change places, so that it still computes the same function.

Every value's channels are *atoms*. A layer makes new ones; batch norm, ReLU, pooling and depthwise convolution hand them on; an
addition makes its two operands' atoms one; concatenation and channel padding line them up. Two atoms that occur in the same values can
change places everywhere at once: producers permute their output channels, consumers their input channels, and the network computes
the same function. A residual stream is thus one class for all its producers and consumers, and padded shortcuts (option A) split a
stage's stream into the part that comes from the stage before and the rest.

Pinned, i.e. left in place, with the reason: the network's inputs and outputs, grouped convolutions that are not depthwise, what enters
an operation that is not known to treat channels alike, and channels flattened together with their pixels.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from overq.errors import InputError
from overq.nn.layers import can_quantize, input_lanes

SAME_MODULES = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Identity,
                nn.Dropout, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)  # fmt: skip
SAME_FUNCTIONS = {F.relu, F.relu6, F.gelu, F.silu, F.hardswish, F.dropout, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, torch.relu,
                  torch.sigmoid, torch.tanh, "relu", "relu_", "sigmoid", "tanh", "contiguous", "clone"}  # fmt: skip
SUMS = (operator.add, operator.iadd, torch.add, "add", "add_", operator.mul, torch.mul, "mul")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Streams:
    """The atoms of a traced model.

    inputs, outputs  per layer or norm: the atoms of the channels it reads and makes (a list, one for each channel)

    Raises InputError where the model cannot be traced by torch.fx.
    """

    def __init__(self, model: nn.Module) -> None:
        try:
            graph = fx.symbolic_trace(model).graph
        except Exception as error:  # tracing runs the model's own code: whatever that does with a symbolic value
            raise InputError(f"the model cannot be traced: {' '.join(str(error).split())[:200]}") from error
        self._modules = dict(model.named_modules())
        self._parent: list[int] = []
        self.inputs: dict[str, list[int]] = {}
        self.outputs: dict[str, list[int]] = {}
        self._pinned: dict[int, str] = {}
        self._owners: dict[int, str] = {}  # parameter -> the first layer that has it
        self._values: dict[fx.Node, list[int] | None] = {}  # None: channels unknown, and fixed
        for node in graph.nodes:
            self._values[node] = self._value(node)

    def find(self, atom: int) -> int:
        """The atom that stands for all that are one with it."""
        while self._parent[atom] != atom:
            self._parent[atom] = self._parent[self._parent[atom]]
            atom = self._parent[atom]
        return atom

    def classes(self) -> list[list[int]]:
        """Atoms that may change places with each other: those that occur in the same values, and are not pinned."""
        pinned = {self.find(atom) for atom in self._pinned}
        signature: dict[int, list[int]] = {}
        for index, atoms in enumerate([*self._values.values(), *self.inputs.values(), *self.outputs.values()]):
            for atom in atoms or ():
                signature.setdefault(self.find(atom), []).append(index)
        found: dict[tuple[int, ...], list[int]] = {}
        for atom, where in signature.items():
            if atom not in pinned and len(set(where)) == len(where):  # twice in one value: a channel that cannot move alone
                found.setdefault(tuple(where), []).append(atom)
        return [atoms for atoms in found.values() if len(atoms) > 1]

    def reasons(self) -> dict[str, str]:
        """Layers that read channels which stay in place, and why."""
        pinned = {self.find(atom): why for atom, why in self._pinned.items()}
        return {name: pinned[self.find(a)] for name, atoms in self.inputs.items() for a in atoms[:1] if self.find(a) in pinned}

    def _new(self, count: int) -> list[int]:
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return list(range(first, first + count))

    def _pin(self, values: Iterable[list[int] | None], why: str) -> None:
        for atoms in values:
            self._pinned.update(dict.fromkeys(atoms or (), why))

    def _of(self, name: str) -> tuple[list[int], list[int]]:
        return self.inputs[name], self.outputs[name]

    def _join(self, a: list[int], b: list[int]) -> list[int]:
        for one, other in zip(a, b, strict=True):
            self._parent[self.find(other)] = self.find(one)
        return a

    def _value(self, node: fx.Node) -> list[int] | None:
        """The atoms of a node's channels; None where nothing is known of them and nothing may move."""
        given = [self._values[n] for n in node.all_input_nodes]
        if node.op == "output":
            self._pin(given, "the network's output")
        if node.op not in ("call_module", "call_function", "call_method"):
            return None
        module = self._modules[str(node.target)] if node.op == "call_module" else None
        if isinstance(module, nn.Module) and (can_quantize(module) or isinstance(module, NORMS)):
            return self._layer(str(node.target), module, given[0])
        known = _shape_of(node, module, given)
        if known is not None:
            return known(self)
        what = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
        self._pin(given, f"{what} is not known to treat channels alike")
        return None

    def _layer(self, name: str, module: Any, given: list[int] | None) -> list[int]:
        groups = getattr(module, "groups", 1)
        reads = module.num_features if isinstance(module, NORMS) else input_lanes(module) * groups
        atoms = given
        if atoms is None or len(atoms) != reads:
            self._pin([given], f"{name} reads them flattened together with their pixels")
            atoms = self._new(reads)
            self._pin([atoms], "their order comes from outside")
        handed_on = isinstance(module, NORMS) or groups == reads == getattr(module, "out_channels", 0) > 1
        made = atoms if handed_on else self._new(module.weight.shape[0])
        if groups > 1 and not handed_on:
            self._pin([atoms, made], f"{name} has {groups} groups")
        if self._owners.setdefault(id(module.weight), name) != name:
            self._pin([atoms, made, *self._of(self._owners[id(module.weight)])], f"{name} shares its weight with another layer")
        if name in self.inputs:  # called before: both calls' channels are the same
            atoms, made = self._join(self.inputs[name], atoms), self._join(self.outputs[name], made)
        self.inputs[name], self.outputs[name] = atoms, made
        return made


def _shape_of(node: fx.Node, module: nn.Module | None, given: list[list[int] | None]) -> Callable[[Streams], list[int] | None] | None:
    """What an operation without parameters does to channels, or None where that is not known."""
    target, args, named = node.target, node.args, dict(node.kwargs)
    if isinstance(module, (*SAME_MODULES, nn.Flatten)) or (module is None and target in SAME_FUNCTIONS):
        return lambda streams: given[0]
    if target in (torch.flatten, "flatten") and [*args[1:], *named.values()] in ([1], [1, -1]):
        return lambda streams: given[0]  # a layer behind it sees whether pixels were left
    dims: Any = args[1] if len(args) > 1 else named.get("dim")
    if target in ("mean", torch.mean) and isinstance(dims, (tuple, list)) and sorted(dims) in ([2, 3], [-2, -1]):
        return lambda streams: given[0]
    usual = target in SUMS and len(args) == 2 and not named
    if usual and len(given) == 1:  # a number, or the same value twice
        return lambda streams: given[0]
    if usual and given[0] is not None and given[1] is not None and len(given[0]) == len(given[1]):
        first, second = given[0], given[1]
        return lambda streams: streams._join(first, second)
    if target is torch.cat and dims == 1 and all(atoms is not None for atoms in given):
        return lambda streams: [atom for atoms in given for atom in atoms or ()]
    if target is operator.getitem and isinstance(args[1], tuple) and args[1][:2] == (slice(None), slice(None)):
        return lambda streams: given[0]
    if target is F.pad and (len(args) < 3 or args[2] == "constant") and given[0] is not None:
        before, after = (*args[1], 0, 0, 0, 0, 0, 0)[4:6]  # type: ignore[misc]
        inner = given[0]
        if before >= 0 and after >= 0:
            return lambda streams: [*streams._new(before), *inner, *streams._new(after)]
    return None
