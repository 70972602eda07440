"""The old place of `overq.integer`, for one release."""

import warnings
from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("overq.nn.integer is overq.integer now; the old name goes with the next release", DeprecationWarning, stacklevel=2)
    return getattr(import_module("overq.integer"), name)
