"""The definition of `overq.spec` on whole arrays. One file per backend, all with the same functions:

encode(t, fmt, axis=-1)            integers t -> (digits int16, states uint8), lanes along `axis`
effective(digits, states, fmt)     -> E int32, b fraction bits, lanes last
counts(t, fmt, axis=-1)            -> spec.Counts over the whole array
overwrite(x, step, fmt, axis=-1)   real x -> E · step / 2^b, same shape and dtype
available()                        None, or one line saying why this backend cannot run here
MODES                              the overwrite modes it implements
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from overq.errors import BackendError, UnsupportedModeError
from overq.spec import Format

# name -> module, the one "auto" prefers first
BACKENDS = {
    "array": "overq.kernels.array",
}


def get(name: str, fmt: Format | None = None) -> ModuleType:
    """The backend of that name, or `BackendError` with what exists. Only "auto" chooses: the first that can run here.

    fmt: refuse (UnsupportedModeError) a backend that lacks one of this format's modes.
    """
    if name == "auto":
        name = next(candidate for candidate, why_not in available().items() if why_not is None)
    if name not in BACKENDS:
        raise BackendError(f"no kernel backend {name!r}; there are auto, {', '.join(BACKENDS)}")
    module, why_not = _load(name)
    if module is None or why_not is not None:
        raise BackendError(f"kernel backend {name!r} cannot run here: {why_not}")
    for mode in fmt.modes if fmt else ():
        if mode not in module.MODES:
            raise UnsupportedModeError(f"kernel backend {name!r} does not implement {mode} overwrite; it has {', '.join(module.MODES)}")
    return module


def available() -> dict[str, str | None]:
    """Each backend's name, and None where it can run here or one line saying why not."""
    return {name: _load(name)[1] for name in BACKENDS}


def _load(name: str) -> tuple[ModuleType | None, str | None]:
    try:
        module = import_module(BACKENDS[name])
    except ImportError as error:
        return None, f"{error}"
    return module, module.available()
