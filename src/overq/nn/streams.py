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

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from overq.nn import channels, kinds
from overq.nn.channels import Channels
from overq.nn.graph import Node, read
from overq.nn.layers import input_lanes
from overq.nn.quantized import Quantized

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
Value = Channels | list[Channels] | None  # None: channels unknown, and fixed


class Streams:
    """The atoms of a traced model.

    inputs, outputs  per layer or norm: the atoms of the channels it reads and makes (a list, one for each channel)

    Raises InputError where the model cannot be traced by torch.fx.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parent: list[int] = []
        self.inputs: dict[str, list[int]] = {}
        self.outputs: dict[str, list[int]] = {}
        self._pinned: dict[int, str] = {}
        self._owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
        self._values: dict[str, Value] = {}
        graph = read(model)
        for node in graph.nodes:
            self._values[node.name] = self._value(node)
        for node in graph.nodes:  # F.linear(x, self.fc.weight) and the like: what the layer does is not all that its weight does
            owner = node.target.rpartition(".")[0]
            if isinstance(node.op, kinds.Constant) and owner in self.inputs:
                self._pin(self._of(owner), f"{owner}'s weights are read as tensors too")

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
        for index, atoms in enumerate([*self._lists(), *self.inputs.values(), *self.outputs.values()]):
            for atom in atoms:
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

    def _lists(self) -> Iterable[list[int]]:
        for value in self._values.values():
            yield from (part.items for part in _parts(value))

    def _new(self, count: int) -> list[int]:
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return list(range(first, first + count))

    def _pin(self, lists: Iterable[list[int]], why: str) -> None:
        for atoms in lists:
            self._pinned.update(dict.fromkeys(atoms, why))

    def _of(self, name: str) -> tuple[list[int], list[int]]:
        return self.inputs[name], self.outputs[name]

    def _join(self, a: list[int], b: list[int]) -> list[int]:
        for one, other in zip(a, b, strict=True):
            self._parent[self.find(other)] = self.find(one)
        return a

    def _value(self, node: Node) -> Value:
        """The channels of a node's value; None where nothing is known of them and nothing may move."""
        given = [self._values[name] for name in node.operands]
        if isinstance(node.op, (kinds.Input, kinds.Constant, kinds.Number)):
            return None
        if isinstance(node.op, kinds.Output):
            self._pin((part.items for value in given for part in _parts(value)), "the network's output")
            return None
        if isinstance(node.op, (kinds.Conv, kinds.Linear, kinds.Norm)):
            assert node.module is not None  # by its kind
            x = given[0]
            if (why := _opaque(node)) is None:
                return self._layer(node, node.module, x if isinstance(x, Channels) else None)
        else:
            if (value := self._moved(node, given)) is not None:
                return value
            why = f"{node.what} is not known to treat channels alike"
        self._pin((part.items for value in given for part in _parts(value)), why)
        return None

    def _layer(self, node: Node, module: Any, given: Channels | None) -> Channels:
        name, groups = node.target, getattr(module, "groups", 1)
        norm = isinstance(node.op, kinds.Norm)
        reads = module.num_features if norm else input_lanes(module) * groups
        place = _place(node, module, given)
        atoms = given.items if given is not None and place is not None and len(given.items) == reads else None
        if atoms is None:
            self._pin([given.items] if given is not None else [], f"{name} reads them flattened together with their pixels")
            atoms = self._new(reads)
            self._pin([atoms], "their order comes from outside")
        handed_on = norm or groups == reads == getattr(module, "out_channels", 0) > 1
        made = atoms if handed_on else self._new(reads if module.weight is None else module.weight.shape[0])
        if groups > 1 and not handed_on:
            self._pin([atoms, made], f"{name} has {groups} groups")
        if any(self._owners[id(p)] > 1 for p in module._parameters.values() if p is not None):
            self._pin([atoms, made], f"{name} shares its weight with another layer")
        if name in self.inputs:  # called before: both calls' channels are the same
            atoms, made = self._join(self.inputs[name], atoms), self._join(self.outputs[name], made)
        self.inputs[name], self.outputs[name] = atoms, made
        return replace(place or _place(node, module, None) or Channels([], None), items=made)

    def _moved(self, node: Node, given: list[Value]) -> Value:
        """What an operation without parameters does to channels, or None where that is not known."""
        op, x = node.op, given[0] if given else None
        if isinstance(op, kinds.Part):
            return x[op.index % len(x)] if isinstance(x, list) and len(x) > 1 else x[0] if isinstance(x, list) else None
        if not isinstance(x, Channels):
            return None
        if isinstance(op, (kinds.Clip, kinds.Pointwise, kinds.Scale, kinds.Same)):
            return x
        if isinstance(op, (kinds.Add, kinds.Pair)):
            y = given[1]
            if not (isinstance(y, Channels) and x.like(y)):
                return None
            return replace(x, items=self._join(x.items, y.items), single=x.single and y.single)
        if isinstance(op, kinds.Cat):
            return self._cat([value for value in given if isinstance(value, Channels)], len(given), op)
        if isinstance(op, kinds.Pad):
            return self._padded(x, op)
        if isinstance(op, kinds.Split):
            return channels.split(x, op)
        for kind, change in CHANGES:
            if isinstance(op, kind):
                return change(x, op)
        return None

    def _cat(self, parts: list[Channels], count: int, op: kinds.Cat) -> Channels | None:
        if len(parts) < count:
            return None
        if (joined := channels.concatenated(parts, op)) is not None:
            return joined
        if parts[0].here(op.dim) is not False or not all(parts[0].like(part) for part in parts):
            return None
        for part in parts[1:]:
            self._join(parts[0].items, part.items)
        return replace(parts[0], single=False)

    def _padded(self, x: Channels, op: kinds.Pad) -> Channels | None:
        if (widths := channels.padded(x, op)) is None:
            return None
        before, after = widths
        kept = x.items[max(-before, 0) : len(x.items) - max(-after, 0)]
        return replace(x, items=[*self._new(max(before, 0)), *kept, *self._new(max(after, 0))], single=False)


CHANGES: tuple[tuple[Any, Callable[[Channels, Any], Channels | None]], ...] = (
    ((kinds.Pool, kinds.AdaptivePool), channels.pooled),
    *channels.CHANGES,
)


def _parts(value: Value) -> list[Channels]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _opaque(node: Node) -> str | None:
    """Why a layer's or norm's parameters cannot be permuted."""
    module: Any = node.module
    if isinstance(module, Quantized):
        return f"{node.target} is quantized already"
    if "weight" not in module._parameters:
        return f"{node.target}'s weight is computed (a parametrization, weight norm, pruning)"
    return None


def _place(node: Node, module: Any, given: Channels | None) -> Channels | None:
    """Where a layer's or norm's channels lie in its output; None where they lie elsewhere in its input than it reads them."""
    if isinstance(node.op, kinds.Linear):
        fits = given is None or given.last or given.rank == 2
        return (Channels([], None, last=True) if given is None else replace(given, last=True)) if fits else None
    if isinstance(node.op, kinds.Conv):
        rank = module.weight.ndim
        alone = given is not None and given.single and set(module.kernel_size) == {1} and set(module.padding) <= {0}
        return Channels([], rank, single=alone) if given is None or (given.rank == rank and not given.last) else None
    if given is None:
        return Channels([], 4 if isinstance(module, nn.BatchNorm2d) else None)
    return given if given.rank is not None and given.axis == 1 else None
