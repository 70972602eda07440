"""What the layers of the float network saw in calibration, small enough for a record."""

from __future__ import annotations

import numpy as np

from overq.calib import Observed
from overq.nn import Observations
from overq.records import LayerInput

BINS, VECTORS, LANES = 64, 4, 32  # of a histogram; kept of a layer; kept of a vector


def inputs_of(seen: Observations) -> tuple[LayerInput, ...]:
    """One for each layer, in the order they ran."""
    return tuple(_input(name, observed) for name, observed in seen.layers.items() if observed.values)


def _input(name: str, observed: Observed) -> LayerInput:
    edges = np.linspace(min(observed.low, 0.0), max(observed.high, observed.low + 1e-6), BINS + 1)
    counts, _ = np.histogram(observed.centers, edges, weights=observed.histogram)
    # A bin's middle may lie beyond the extremes; what does is in the first or the last bin.
    counts[0] += observed.histogram[observed.centers < edges[0]].sum()
    counts[-1] += observed.histogram[observed.centers > edges[-1]].sum()
    lanes = observed.sample.shape[1]
    order = np.argsort(np.abs(observed.sample[:, :LANES]).max(axis=1), kind="stable") if observed.sample.size else np.zeros(0, int)
    ranks = [round(share * (len(order) - 1)) for share in (0.5, 0.9, 0.99, 1.0)[:VECTORS]] if len(order) else []
    vectors = [tuple(_short(x) for x in observed.sample[order[rank], :LANES]) for rank in dict.fromkeys(ranks)]
    return LayerInput(
        name, _short(observed.low), _short(observed.high), tuple(map(_short, edges)), tuple(map(int, counts)), tuple(vectors), int(lanes)
    )


def _short(value: float) -> float:
    """Five digits are enough to look at."""
    return float(f"{float(value):.5g}")
