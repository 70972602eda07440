"""What a user should know of how a layer met its input, and of how the samples were run: notes in the summary."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from overq.nn.layers import input_groups, input_lanes
from overq.nn.observation import Observations
from overq.spec import Format

APART = 4.0  # times: ranges of a layer's calls that one step does not serve well, two bits of difference


def layer_notes(name: str, layer: nn.Module, fmt: Format | None, seen: Observations) -> Iterator[str]:
    """Of one layer: its calls, who reads the same tensor, its padding, its lanes."""
    if reading := seen.readings.get(name):
        reach = reading.largest
        if len(reach) > 1:
            note = f"called {len(reach)} times in a run, one step for all"
            if max(reach) > APART * min(reach):
                shown = ", ".join(f"{value:.3g}" for value in reach[:4]) + (", …" if len(reach) > 4 else "")
                note += f", though inputs reach {shown}"
            yield note
        if reading.beside:
            yield f"reads the same tensor as {_few(reading.beside)}"
        if reading.padded:
            yield f"{reading.padded} padded positions left out"
        if reading.untold:
            yield "padding not left out: its input has other positions than the mask"
    if fmt is not None and fmt.cascade:
        lanes, groups = input_lanes(layer), input_groups(layer)
        if groups > 1:
            yield f"{groups} groups of {lanes} lanes"
        if fmt.lanes is not None and lanes % fmt.lanes:
            yield f"{fmt.lanes - lanes % fmt.lanes} lanes of {'its' if lanes < fmt.lanes else 'the last'} tile idle"


def run_notes(seen: Observations) -> Iterator[str]:
    """Of the samples."""
    stream = seen.stream
    if stream is None:
        return
    if unpassed := stream.facts.get("unpassed"):
        yield f"{unpassed} item{'s' * (unpassed > 1)} of a batch {'were' if unpassed > 1 else 'was'} not passed to the model"
    if not stream.together and stream.facts["batches"] > 1:
        yield "batches were run as they came: the model answers a sample otherwise beside others, or its samples could not be told apart"
    if stream.hint and not any(reading.padded for reading in seen.readings.values()):
        yield f"the samples hold {stream.hint!r}, and no mask was named: if it says what is padded, give mask={stream.hint!r}"
    if seen.count is not None and seen.count.unknown:
        yield f"not counted, though they take weights: {_few(sorted(seen.count.unknown))}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
