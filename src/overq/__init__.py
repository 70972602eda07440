"""OverQ: opportunistic outlier quantization (arXiv 1910.06909v2), from a float PyTorch model to gates.

    import overq

    recipe = overq.Recipe(overq.Format(bits=4, cascade=4))
    qmodel = overq.quantize(model, samples, recipe)      # a new model; a few unlabelled samples
    print(overq.summary(qmodel))
    y = overq.overwrite(x, step=0.1, fmt=overq.Format())  # one tensor

torch is imported only when one of these names is first used; `overq.spec` needs the standard library alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from overq.errors import OverqError
from overq.spec import Format

if TYPE_CHECKING:
    from overq.nn import LayerRule, Recipe, load, observe, overwrite, quantize, save, summary

__version__ = "0.1.0"
__all__ = ["Format", "LayerRule", "OverqError", "Recipe", "load", "observe", "overwrite", "quantize", "save", "summary"]

_FROM_NN = {"LayerRule", "Recipe", "load", "observe", "overwrite", "quantize", "save", "summary"}


def __getattr__(name: str) -> Any:
    if name in _FROM_NN:
        return getattr(import_module("overq.nn"), name)
    raise AttributeError(f"module 'overq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FROM_NN])
