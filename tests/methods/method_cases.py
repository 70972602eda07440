"""Every registered method with its defaults, and some settings of each: the laws run over all of them."""

from functools import cache

import numpy as np
import pytest

from overq.methods import METHODS

SETTINGS = {
    "uniform": [{"bits": 8}],
    "overq": [{"bits": 3, "cascade": 1, "lanes": 8}, {"policy": "largest", "fraction_bits": 0}, {"cascade": 0}],
    "overq_first": [{"bits": 6, "lanes": 4}],
    "ocs_activations": [{"ratio": 0.3}, {"aware": False, "ratio": 0.1}, {"ratio": 0}],
    "ocs_weights": [{"per_channel": False, "ratio": 0.2}],
    "sparq": [{"options": 3}, {"options": 2, "rounding": False}, {"pairs": False}, {"bits": 3}, {"bits": 2, "rounding": False}],
    "olive": [{"bits": 3}, {"bits": 5}, {"bits": 8}],
    "pwlq": [{"bits": 3}],
    "biscaled": [{"bits": 6, "block": 16}],
    "high_precision": [{"bits": 3, "fraction": 0.1}, {"fraction": 0}],
    "mx": [{"element": e} for e in ("int8", "int4", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3")] + [{"block": 8}],
    "mx_plus": [{"element": "fp6_e2m3"}, {"block": 8}],
    "nvfp4": [{"block": 8}],
    "tender": [{"bits": 6, "groups": 3}],
    "atom": [{"bits": 3, "block": 16, "ratio": 0.1}],
}


def cases():
    for name, kind in METHODS.items():
        for settings in [{}, *SETTINGS.get(name, [])]:
            yield pytest.param(kind(**settings), id=name + "".join(f"-{k}={v}" for k, v in settings.items()))


def long_tailed(rows=240, lanes=45, signed=False, seed=3):
    """Like a ReLU layer's input: about half zeros, a few channels with long tails. float32 [rows, lanes]."""
    rng = np.random.default_rng(seed)
    x = rng.laplace(size=(rows, lanes)) * np.exp(rng.normal(size=lanes))
    x = np.where(np.abs(x) < 0.5, 0, x)
    return (x if signed else np.maximum(x, 0)).astype(np.float32)


@pytest.fixture
def sample(signed):
    return long_tailed(signed=signed)


@cache
def fit(method, signed):
    return method.fit(long_tailed(signed=signed), signed)
