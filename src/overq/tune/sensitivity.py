"""Sensitivity: what the model's output loses where one layer alone is quantized, for every layer and every candidate format."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from rich.table import Table
from torch import nn

from overq.errors import CalibrationError, FormatError, InputError, NonFiniteError
from overq.nn.call import Forward, run
from overq.nn.candidates import can_quantize
from overq.nn.convert import DEFAULT_RECIPE, check_overrides, quantizable
from overq.nn.fit import fit_layer
from overq.nn.layers import TRANSPOSED, FloatLayer, kind, weight_of
from overq.nn.observation import Observations, check_weights, observe
from overq.nn.quantized import Parts, converted
from overq.nn.recipe import LayerRule, Recipe
from overq.nn.replica import ready
from overq.nn.samples import opened
from overq.nn.tensors import readers
from overq.nn.trees import home, moved
from overq.spec import Format
from overq.text import add_row, console


def squared_error(wanted: torch.Tensor, got: torch.Tensor) -> float:
    """Σ (got - wanted)², outputs of any shape."""
    return (got.double() - wanted.double()).square().sum().item()


def divergence(wanted: torch.Tensor, got: torch.Tensor) -> float:
    """Σ KL(softmax(wanted) ‖ softmax(got)) in nats, logits along the last dimension."""
    before, after = wanted.double().log_softmax(-1), got.double().log_softmax(-1)
    return (before.exp() * (before - after)).sum().item()


# name -> (sum over a batch, by what the sum of all batches is divided, summed alike)
LOSSES: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], float], Callable[[torch.Tensor], float]]] = {
    "mse": (squared_error, lambda wanted: wanted.double().square().sum().item()),  # a share of the output's own power
    "kl": (divergence, lambda wanted: float(wanted[..., 0].numel())),  # per row of logits
}


@dataclass(frozen=True)
class Trial:
    """One layer in one format, all others in float.

    candidate    as asked for; `format` as the layer can use it (its signedness, plain where there is no neighbour)
    step         Δ, in units of the input
    loss         of the model's output against the float model's
    correct      rows whose top-1 is their label; None without labels
    """

    candidate: Format
    format: Format
    step: float
    loss: float
    correct: int | None

    @property
    def label(self) -> str:
        return self.candidate.label

    @property
    def bits(self) -> float:
        """Stored and moved per value, states included, as `overq.methods.Cost.bits` counts them."""
        return self.format.bits + self.format.state_bits


@dataclass(frozen=True)
class LayerTrials:
    """One layer with all its trials. values: of its input, over all samples; macs: multiplications over all samples; tensor: the first of
    several layers that read the same input, empty where only this one does."""

    name: str
    kind: str
    values: int
    macs: int
    trials: tuple[Trial, ...]
    tensor: str = ""


@dataclass(frozen=True)
class Sensitivity:
    """The trials of every layer that the recipe's default rule governs, in the order the layers run. `print` it for a table.

    loss           name in LOSSES
    recipe         the base: weight bits, calibration and the layers with a rule of their own, which were not tried
    rows, correct  labelled rows, and how many the float model gets right; None without labels
    """

    loss: str
    recipe: Recipe
    layers: tuple[LayerTrials, ...]
    rows: int | None = None
    correct: int | None = None

    def records(self) -> Iterator[dict[str, Any]]:
        """One flat row for each layer and candidate, for CSV."""
        for layer in self.layers:
            for t in layer.trials:
                f = t.format
                yield {
                    "layer": layer.name, "kind": layer.kind, "values": layer.values, "macs": layer.macs, "candidate": t.label,
                    "activation_bits": f.bits, "stored_bits": t.bits, "cascade": f.cascade, "modes": "+".join(f.modes),
                    "policy": f.policy, "signed": f.signed, "step": t.step, self.loss: t.loss, "correct": t.correct, "rows": self.rows,
                }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"recipe": self.recipe.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Sensitivity:
        """The inverse of `to_json`; InputError for what it did not write."""
        try:
            layers = (LayerTrials(**{**layer, "trials": tuple(map(_trial, layer["trials"]))}) for layer in data["layers"])
            made = cls(**{**data, "recipe": Recipe.from_json(data["recipe"]), "layers": tuple(layers)})
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"not a table of sensitivities: {error!r}") from error
        candidates = [[t.candidate for t in layer.trials] for layer in made.layers]
        if not candidates or not candidates[0] or any(row != candidates[0] for row in candidates):
            raise InputError("not a table of sensitivities: every layer needs the same candidates, at least one")
        return made

    def table(self) -> Table:
        """A rich table: one row for each layer, one column for each candidate; loss, and top-1 points lost where labels are known."""
        what = "output error / output power" if self.loss == "mse" else "KL to the float model, nats"
        table = Table(title=f"each layer alone: {what}{'' if self.rows is None else ' (points of top-1 lost)'}")
        table.add_column("layer")
        for trial in self.layers[0].trials:
            table.add_column(trial.label, justify="right")
        for layer in self.layers:
            add_row(table, layer.name, *(f"{t.loss:.2e}{self._lost(t)}" for t in layer.trials))
        return table

    def _lost(self, trial: Trial) -> str:
        if self.rows is None or self.correct is None or trial.correct is None:
            return ""
        return f" ({100 * (self.correct - trial.correct) / self.rows:.2f})"

    def __str__(self) -> str:
        out = io.StringIO()
        console(file=out, width=40 + 20 * len(self.layers[0].trials)).print(self.table())
        return out.getvalue()


def _trial(data: dict[str, Any]) -> Trial:
    made = Trial(**{**data, "candidate": Format.from_json(data["candidate"]), "format": Format.from_json(data["format"])})
    for name in ("step", "loss"):
        if isinstance(value := getattr(made, name), bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} is {value!r}")
    return made


def sensitivity(
    model: nn.Module,
    samples: Any,
    candidates: Sequence[Format],
    *,
    recipe: Recipe = DEFAULT_RECIPE,
    seen: Observations | None = None,
    labels: torch.Tensor | None = None,
    loss: str = "mse",
    forward: Forward = run,
    progress: Callable[[str, int, int], None] = lambda layer, done, total: None,
) -> Sensitivity:
    """Quantize one layer at a time, in every candidate format, and compare the model's output with the float model's.

    samples     batches as for `observe`; a one-way iterator is read once and kept
    candidates  formats, their `signed` decided per layer in calibration
    recipe      weight bits, calibration, reordering and equalization (biases are not corrected); layers that its first, last or
                overrides govern are left alone
    seen        what `observe` returned, if it is known already; one observation serves all trials
    labels      class numbers, one for each row of all outputs [N, classes]; to count top-1 as well
    loss        "mse" for any output (as a share of the output's power), "kl" for class scores; formats assigned by "mse" gave the
                better networks (docs/calibration.md)
    progress    called with (layer, trials done, trials to do)

    Raises FormatError (no candidate, no such loss), CalibrationError (no samples, no layer free), InputError (outputs, labels).
    """
    if loss not in LOSSES:
        raise FormatError(f"no loss {loss!r}; there are {', '.join(LOSSES)}")
    candidates = tuple(dict.fromkeys(candidates))
    if not candidates or not all(isinstance(candidate, Format) for candidate in candidates):
        raise FormatError("candidates must be at least one Format")
    check_weights(model)
    model = ready(model, borrow=True)
    with torch.no_grad():
        stream = opened(model, samples, forward)
        kept, forward = [part.batch for part in stream], stream.forward
    seen = observe(model, kept, forward=forward, seed=recipe.seed) if seen is None else seen
    layers = quantizable(model, seen)
    names = [name for name in free_layers(recipe, seen) if name not in seen.other and name not in seen.sites]
    check_overrides(recipe, [name for name, module in model.named_modules() if can_quantize(module)])
    if not seen.layers:
        raise CalibrationError("the samples reached no Conv1d, Conv2d or Linear layer: there is nothing to quantize")
    if not names:
        raise CalibrationError("no layer is free: the recipe has a rule of its own for every layer that the samples reach")
    if missing := [name for name in names if name not in layers]:
        raise CalibrationError(f"the observations are of another model: it has no layer {missing[0]!r}")
    device, dtype = home(model)
    kept = [moved(batch, device, dtype) for batch in kept]
    with torch.no_grad(), _counted({name: layers[name] for name in names}) as macs:
        wanted = list(_outputs(model, kept, forward))
    rows = _checked(wanted, labels)
    correct = None if labels is None else _correct(wanted, labels)
    scale = sum(LOSSES[loss][1](output) for output in wanted)

    def measure(layer: FloatLayer, parts: Parts) -> tuple[float, int | None]:
        with torch.no_grad(), converted(layer, parts):
            got = list(_outputs(model, kept, forward))
        lost = sum(LOSSES[loss][0](a, b) for a, b in zip(wanted, got, strict=True))
        return lost / (scale or 1.0), None if labels is None else _correct(got, labels)

    result: list[LayerTrials] = []
    for name in names:
        known: dict[Format, Trial] = {}  # several candidates may come to the same format: one channel a group is always plain
        trials: list[Trial] = []
        for candidate in candidates:
            progress(name, len(result) * len(candidates) + len(trials), len(names) * len(candidates))
            fit = fit_layer(name, layers[name], seen.layers[name], rule_for(recipe, candidate), seen.fits)
            report = fit.report
            assert report.format is not None  # candidates are formats
            assert report.step is not None
            if report.format not in known:
                lost, right = measure(layers[name], fit.parts)
                known[report.format] = Trial(candidate, report.format, report.step, lost, right)
            trials.append(replace(known[report.format], candidate=candidate))
        beside = [other for other in readers(seen)[name] if other in names]
        tensor = beside[0] if len(beside) > 1 else ""
        result.append(LayerTrials(name, kind(layers[name]).__name__, seen.layers[name].values, macs[name], tuple(trials), tensor))
    return Sensitivity(loss, recipe, tuple(result), rows, correct)


def rule_for(recipe: Recipe, candidate: Format) -> LayerRule:
    """The recipe's default rule with another format."""
    return replace(recipe.default, method=candidate)


def free_layers(recipe: Recipe, seen: Observations) -> list[str]:
    """Names of the layers reached that only the recipe's default governs."""
    names, together = list(seen.layers), readers(seen)
    edges = zip((names[:1] + names[-1:]), (recipe.first, recipe.last), strict=False)
    ruled = {name for edge, rule in edges if rule is not None for name in together[edge]}
    return [name for name in names if name not in ruled and not any(fnmatchcase(name, pattern) for pattern, _ in recipe.overrides)]


@contextmanager
def _counted(layers: dict[str, FloatLayer]) -> Iterator[dict[str, int]]:
    """Within the block, the multiplications of each layer, growing call by call."""
    macs = dict.fromkeys(layers, 0)

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: FloatLayer, args: Any, output: torch.Tensor) -> None:
            met = args[0].numel() // layer.in_channels * layer.out_channels if isinstance(layer, TRANSPOSED) else output.numel()
            macs[name] += met * weight_of(layer)[0].numel()

        return hook

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield macs
    finally:
        for hook in hooks:
            hook.remove()


def _outputs(model: nn.Module, kept: Iterable[Any], forward: Forward) -> Iterator[torch.Tensor]:
    for batch in kept:
        output = forward(model, batch)
        if not isinstance(output, torch.Tensor) or not output.ndim:
            raise InputError(f"the model returned {type(output).__name__}, not a tensor: give a `forward` that picks one")
        yield output


def _checked(wanted: list[torch.Tensor], labels: torch.Tensor | None) -> int | None:
    """How many labelled rows there are; refuses what cannot be compared."""
    if not all(output.isfinite().all() for output in wanted):
        raise NonFiniteError("the float model's output holds NaN or infinity on these samples")
    if labels is None:
        return None
    rows = sum(len(output) for output in wanted)
    if any(output.ndim != 2 for output in wanted):
        raise InputError(f"labels need outputs [N, classes], not {[rows, *wanted[0].shape[1:]]}")
    if labels.shape != (rows,):
        raise InputError(f"labels of shape {list(labels.shape)} do not fit {rows} rows of output")
    classes = min(output.shape[1] for output in wanted)
    if labels.is_floating_point() or int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InputError(f"labels must be class numbers from 0 to {classes - 1}, as the network has {classes} classes")
    return rows


def _correct(outputs: list[torch.Tensor], labels: torch.Tensor) -> int:
    return int((torch.cat([output.argmax(1) for output in outputs]).cpu() == labels.cpu()).sum())
