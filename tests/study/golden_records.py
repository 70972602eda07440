"""The digits network's class scores under every method and kind of recipe: the safety net of a change that must change nothing.

`python tests/study/golden_records.py` writes tests/study/records.json anew; do that only where a change of results is meant, in a commit
of its own that says why. What follows the code's names is in this file; the records spell settings in words that outlive them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from overq import Format, Recipe, quantize
from overq.calib import CALIBRATORS, PARAMETERS, WITH_WEIGHT
from overq.datafree import observe_statistics
from overq.methods import METHODS, Cost, Method
from overq.nn import Observations, observe, summary
from overq.nn.cost import cost_of
from overq.study import digits

FILE = Path(__file__).with_name("records.json")
CALIBRATION, SCORED = 8, 24  # images

A4 = {"bits": 4, "cascade": 4, "modes": "range+precision", "policy": "first", "lanes": None}
PARAMETERS_OF = {
    "mx": {"element": "int4"},
    "mx_plus": {"element": "fp4"},
    "nvfp4": {"block": 16},
    "overq": {"bits": 4, "range_bits": 4, "fraction_bits": 4},
}
PLAIN = {**A4, "cascade": 0, "modes": ""}


def specs() -> dict[str, dict[str, Any]]:
    """Name -> what is run, in plain words. `format` and `method` exclude each other."""
    found: dict[str, dict[str, Any]] = {}
    for name in METHODS:
        parameters = PARAMETERS_OF.get(name, {"bits": 4})
        found[f"{name} W8"] = {"method": name, "parameters": parameters}
    for name in ("uniform", "overq", "ocs_weights", "olive"):
        found[f"{name} W4 corrected"] = {
            "method": name,
            "parameters": PARAMETERS_OF.get(name, {"bits": 4}),
            "weight_bits": 4,
            "bias_correction": True,
        }
    found["plain recipe"] = {"format": PLAIN}
    found["plain recipe kl"] = {"format": {**PLAIN, "bits": 3}, "calibration": "kl"}
    for key, values in {
        "cascade": (1, 8), "modes": ("range", "precision"), "policy": ("largest",), "lanes": (8,), "bits": (2, 6),
    }.items():  # fmt: skip
        for value in values:
            found[f"recipe {key}={value}"] = {"format": {**A4, key: value}}
    for name in [*CALIBRATORS, *WITH_WEIGHT]:
        name = PARAMETERS[name][1] if name in PARAMETERS else name
        found[f"recipe {name}"] = {"format": A4, "calibration": name}
    for key, value in {
        "reorder": True, "equalize": 0.5, "bias_correction": True, "sequential": True, "source": "statistics",
        "weight_bits": 4, "edges": False,
    }.items():  # fmt: skip
        found[f"recipe {key}={value}"] = {"format": A4, key: value}
    found["recipe equalize=auto W4"] = {"format": A4, "equalize": "auto", "weight_bits": 4}
    found["recipe all"] = {
        "format": {**A4, "bits": 3, "cascade": 8, "policy": "largest"}, "calibration": "mse", "weight_bits": 4,
        "reorder": True, "equalize": 0.25, "bias_correction": True, "sequential": True,
    }  # fmt: skip
    return found


def result(spec: dict[str, Any]) -> dict[str, Any]:
    """The record of one spec: hashes of the steps and of the class scores' float32 bytes, the classes, and the average cost."""
    model, samples = digits.network(), [_images("calibration", CALIBRATION)]
    quantized, steps, cost = _quantized(model, samples, spec)
    with torch.no_grad():
        scores = quantized(_images("test", SCORED))
    return {
        "steps": _hash(json.dumps(steps).encode()),
        "scores": _hash(scores.numpy().astype("<f4").tobytes()),
        "classes": "".join(str(int(c)) for c in scores.argmax(1)),
        "cost": [round(value, 9) for value in astuple(cost)],
    }


def observed() -> str:
    """Hash of what the layers saw: where this differs, it is the observation that changed, not what is made of it."""
    samples = {name: layer.sample[np.lexsort(layer.sample.T)].tolist() for name, layer in _seen().layers.items()}
    return _hash(json.dumps(samples).encode())


def environment() -> dict[str, str]:
    """What a float convolution's last bits depend on."""
    return {"torch": torch.__version__.partition("+")[0], "numpy": np.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}


def _quantized(model: Any, samples: list[torch.Tensor], spec: dict[str, Any]) -> tuple[Any, list[float | None], Cost]:
    method: Any = METHODS[spec["method"]](**spec["parameters"]) if "method" in spec else format_of(spec["format"])
    edges = {} if spec.get("edges", True) else {"first": None, "last": None}
    keys = {key: spec[key] for key in ("calibration", "reorder", "equalize", "bias_correction", "sequential") if key in spec}
    if isinstance(method, Method):
        keys["calibration"] = "least-error"
    recipe = Recipe(method, spec.get("weight_bits", 8), **keys, **edges)
    seen = observe_statistics(model) if spec.get("source") == "statistics" else _seen()
    quantized = quantize(model, samples, recipe, seen=seen)
    return quantized, [each.step for each in summary(quantized).layers], cost_of(quantized, seen)


def format_of(spelled: dict[str, Any]) -> Format:
    """A Format, whatever its fields are called: `modes` that are on have all `bits` bits."""
    words = dict(spelled)
    modes = words.pop("modes").split("+")
    bits = words["bits"]
    if "range_bits" in {f.name for f in fields(Format)}:
        return Format(**words, range_bits=bits * ("range" in modes), fraction_bits=bits * ("precision" in modes))
    return Format(**words, range_overwrite="range" in modes, precision_overwrite="precision" in modes)


@cache
def _seen() -> Observations:
    return observe(digits.network(), [_images("calibration", CALIBRATION)])


def _images(split: str, count: int) -> torch.Tensor:
    return digits.images(split)[0][:count]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def main() -> None:
    torch.set_num_threads(1)
    records = [{"name": name, "run": spec, **result(spec)} for name, spec in specs().items()]
    head = {"schema": 1, "environment": environment(), "observed": observed()}
    lines = ",\n".join("  " + json.dumps(record) for record in records)
    FILE.write_text(json.dumps(head, indent=1).rstrip("}\n") + f',\n "records": [\n{lines}\n ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
