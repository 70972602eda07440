"""Reordering that the network itself carries: producers make their channels in the order that consumers want, so nothing is moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from overq import calib
from overq.nn.layers import suited
from overq.nn.observation import Observations
from overq.nn.recipe import Recipe
from overq.nn.reorder import ROWS, WORK, Reader, alternating, search
from overq.nn.replica import ready
from overq.nn.streams import NORMS, Streams


def reorder_network(model: nn.Module, seen: Observations, recipe: Recipe) -> nn.Module:
    """A float model in eval mode that computes the same function with its channels in another order; the given one stays as it was.

    Each layer that `recipe` gives overwrite finds its input channels in an order in which the format errs less on the sample, as far
    as one order serves all readers of a stream: their errors count in units of their samples' energy. `Streams(model).reasons()` says
    what stays in place. `quantize` the result like any model, with samples or with observations of the result itself.

    Raises InputError where the model cannot be traced.
    """
    streams = Streams(model)
    readers = _readers(model, seen, recipe, streams)
    read = {atom for reader in readers for atom in reader.row_of}
    classes = [c for c in streams.classes() if read.issuperset(c)]
    for members in classes:
        _begin(members, [r for r in readers if members[0] in r.row_of])
    search(readers, classes, work=WORK * len(readers))
    return permuted(model, streams, _targets(readers, classes))


def _readers(model: nn.Module, seen: Observations, recipe: Recipe, streams: Streams) -> list[Reader]:
    """The layers with overwrite; their steps are those of the format-aware search in the present order."""
    modules, found, rules = dict(model.named_modules()), [], recipe.rules(list(seen.layers))
    for name, observed in seen.layers.items():
        rule = rules[name]
        fmt = suited(rule.method, modules[name]).format(observed.signed)  # type: ignore[arg-type]  # a rule turns formats into methods
        atoms = [streams.find(atom) for atom in streams.inputs.get(name, ())]
        if fmt is not None and fmt.cascade and not rule.skip and observed.largest and len(set(atoms)) == observed.sample.shape[1]:
            step = calib.get("format-mse")(observed, fmt)
            energy = float(np.square(calib.thinned(observed.sample, ROWS) / step).sum())
            found.append(Reader(observed.sample, step, fmt, atoms, 1 / energy))
    return found


def _begin(members: Sequence[int], readers: Sequence[Reader]) -> None:
    """The class in alternating order by its mean rates, if that lowers the readers' error."""
    places = sorted(members, key=readers[0].row_of.__getitem__)
    rows = [[r.row_of[atom] for atom in places] for r in readers]
    outliers, zeros = np.mean([[r.channels.outliers[own], r.channels.zeros[own]] for r, own in zip(readers, rows, strict=True)], axis=0)
    wanted = alternating(outliers, zeros)
    before, old = sum(r.error for r in readers), [r.order for r in readers]
    for reader, own in zip(readers, rows, strict=True):
        order = reader.order.copy()
        order[own] = np.array(own)[wanted]
        reader.place(order)
    if sum(r.error for r in readers) > before:
        for reader, order in zip(readers, old, strict=True):
            reader.place(order)


def _targets(readers: Sequence[Reader], classes: Sequence[Sequence[int]]) -> dict[int, int]:
    """atom -> the atom that takes its place: the same for all readers, because they swapped together."""
    targets: dict[int, int] = {}
    for members in classes:
        reader = next(r for r in readers if members[0] in r.row_of)
        names = list(reader.row_of)
        targets |= {atom: names[reader.order[reader.row_of[atom]]] for atom in members}
    return targets


def permuted(model: nn.Module, streams: Streams, targets: dict[int, int]) -> nn.Module:
    """A copy of the model in which each atom of `targets` has its place taken by another of its class; the rest stays."""
    result = ready(model)
    modules: dict[str, Any] = dict(result.named_modules())
    for name, atoms in streams.inputs.items():
        module = modules[name]
        reads, makes = _index(streams, atoms, targets), _index(streams, streams.outputs[name], targets)
        if not isinstance(module, NORMS) and getattr(module, "groups", 1) == 1:
            module.weight.data = module.weight.data[:, reads]
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(module, part, None)
            if tensor is not None:
                tensor.data = tensor.data[makes]
    return result


def _index(streams: Streams, atoms: list[int], targets: dict[int, int]) -> torch.Tensor:
    """int64: which of a value's old channels comes to each place."""
    roots = [streams.find(atom) for atom in atoms]
    place = {atom: i for i, atom in enumerate(roots)}
    return torch.tensor([place[targets[atom]] if atom in targets else i for i, atom in enumerate(roots)])
