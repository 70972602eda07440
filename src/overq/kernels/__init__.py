"""The definition of `overq.spec` on whole arrays. One file per backend, all with the same functions:

encode(t, fmt, axis=-1)            integers t -> (digits int16, states uint8), lanes along `axis`
effective(digits, states, fmt)     -> E int32, f fraction bits, lanes last
counts(t, fmt, axis=-1)            -> spec.Counts over the whole array
overwrite(x, step, fmt, axis=-1)   real x -> E · step / 2^f, same shape, dtype and device; a step for the tensor, each vector or tile
overwrite_counted(…)               -> (overwrite(…), counts), in one pass where the backend can
available()                        None, or one line saying why this backend cannot run here
MODES                              the overwrite modes it implements

Only "auto" chooses. What it chose is `chosen(device)`; why a backend is out is in `available()`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from overq.errors import BackendError, UnsupportedModeError
from overq.spec import Format

BACKENDS = {
    "numba": "overq.kernels.numba_cpu",
    "triton": "overq.kernels.triton_gpu",
    "array": "overq.kernels.array",
}

# What "auto" tries for tensors on a device, in this order; any other device: array
PREFERRED = {"cpu": ("numba", "array"), "cuda": ("triton", "array")}


def get(name: str, fmt: Format | None = None, device: str = "cpu") -> ModuleType:
    """The backend of that name, or `BackendError` with what exists. Only "auto" chooses: the fastest that can run on `device`.

    fmt: refuse (UnsupportedModeError) a backend that lacks one of this format's modes.
    device: where the arrays are, a torch device type such as "cpu" or "cuda".
    """
    if name == "auto":
        name = chosen(device)
    if name not in BACKENDS:
        raise BackendError(f"no kernel backend {name!r}; there are auto, {', '.join(BACKENDS)}")
    module, why_not = _load(name)
    if module is None or why_not is not None:
        raise BackendError(f"kernel backend {name!r} cannot run here: {why_not}")
    for mode in fmt.modes if fmt else ():
        if mode not in module.MODES:
            raise UnsupportedModeError(f"kernel backend {name!r} does not implement {mode} overwrite; it has {', '.join(module.MODES)}")
    return module


def chosen(device: str = "cpu") -> str:
    """The backend that "auto" means for arrays on `device`."""
    return next(name for name in PREFERRED.get(device, ("array",)) if _load(name)[1] is None)


def available() -> dict[str, str | None]:
    """Each backend's name, and None where it can run here or one line saying why not."""
    return {name: _load(name)[1] for name in BACKENDS}


def prepared(device: str = "cpu") -> bool:
    """Whether what "auto" means on `device` needs no compiling that takes long."""
    return chosen(device) != "numba" or get("numba").cached()


def prepare(device: str = "cpu") -> None:
    """Compile what "auto" means on `device` where it is not cached on disk yet: seconds once, a moment afterwards."""
    import numpy as np

    if chosen(device) == "numba":
        kernel = get("numba")
        for axis in (-1, 1):  # lanes together and lanes apart are compiled each
            kernel.overwrite_counted(np.ones((1, 4, 2, 2), np.float32), 1.0, Format(), axis=axis)


def _load(name: str) -> tuple[ModuleType | None, str | None]:
    try:
        module = import_module(BACKENDS[name])
    except ImportError as error:
        return None, f"{error}"
    return module, module.available()
