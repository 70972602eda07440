"""Step sizes from observed activations. One file per method, each `(observed, format) -> step`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from overq.calib.absmax import absmax
from overq.calib.aciq import aciq_gauss, aciq_laplace
from overq.calib.format_mse import format_mse
from overq.calib.kl import kl
from overq.calib.least_error import least_error
from overq.calib.moving_max import moving_max
from overq.calib.mse import mse
from overq.calib.observed import Observed, thinned
from overq.calib.output_mse import output_mse
from overq.calib.percentile import percentile
from overq.calib.std import std
from overq.errors import FormatError
from overq.spec import Format

Calibrator = Callable[[Observed, Format], float]

CALIBRATORS: dict[str, Callable[..., float]] = {
    "max": absmax,
    "moving-max": moving_max,
    "percentile": percentile,
    "std": std,
    "mse": mse,
    "kl": kl,
    "aciq-gauss": aciq_gauss,
    "aciq-laplace": aciq_laplace,
    "format-mse": format_mse,
    "least-error": least_error,
}
WITH_WEIGHT: dict[str, Callable[..., float]] = {"output-mse": output_mse}  # these also ask for the layer's weight
PARAMETERS = {"percentile": ("percent", "percentile:99.99"), "std": ("deviations", "std:4")}  # keyword, example


def get(name: str, weight: np.ndarray | None = None) -> Calibrator:
    """The method of that name; a number after a colon is its parameter, as in "percentile:99.99" or "std:4".

    weight  float [R, K], only used by the methods `WITH_WEIGHT`: one row for each output channel and kernel tap
    """
    if not isinstance(name, str):
        raise FormatError(f"a calibration method is given by name, not {name!r}")
    base, colon, parameter = name.partition(":")
    if base not in CALIBRATORS | WITH_WEIGHT:
        raise FormatError(f"no calibration method {base!r}; there are {', '.join(CALIBRATORS | WITH_WEIGHT)}")
    if colon and base not in PARAMETERS:
        raise FormatError(f"calibration method {base!r} takes no parameter, got {name!r}")
    if base in WITH_WEIGHT:
        return partial(WITH_WEIGHT[base], weight=weight)
    if not colon:
        return CALIBRATORS[base]
    keyword, example = PARAMETERS[base]
    try:
        value = float(parameter)
    except ValueError:
        raise FormatError(f"the parameter of calibration {name!r} must be a number, as in {example}") from None
    method = partial(CALIBRATORS[base], **{keyword: value})
    method(Observed(0.0, 1.0, 1), Format.plain(8))  # refuse a senseless parameter now, not after the samples were run
    return method


__all__ = ["CALIBRATORS", "WITH_WEIGHT", "Calibrator", "Observed", "get", "thinned"]
