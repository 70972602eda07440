"""Step sizes from observed activations. One file per method, each `(observed, format) -> step`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from overq.calib.absmax import absmax
from overq.calib.format_mse import format_mse
from overq.calib.mse import mse
from overq.calib.observed import Observed
from overq.calib.percentile import percentile
from overq.errors import FormatError
from overq.spec import Format

Calibrator = Callable[[Observed, Format], float]

CALIBRATORS: dict[str, Callable[..., float]] = {
    "max": absmax,
    "percentile": percentile,
    "mse": mse,
    "format-mse": format_mse,
}


def get(name: str) -> Calibrator:
    """The method of that name; a number after a colon is its parameter, as in "percentile:99.99"."""
    base, colon, parameter = name.partition(":")
    if base not in CALIBRATORS:
        raise FormatError(f"no calibration method {base!r}; there are {', '.join(CALIBRATORS)}")
    if not colon:
        return CALIBRATORS[base]
    if base != "percentile":
        raise FormatError(f"calibration method {base!r} takes no parameter, got {name!r}")
    try:
        value = float(parameter)
    except ValueError:
        raise FormatError(f"the parameter of calibration {name!r} must be a number, as in percentile:99.99") from None
    method = partial(percentile, percent=value)
    method(Observed(0.0, 1.0, 1), Format.plain(8))  # refuse a senseless parameter now, not after the samples were run
    return method


__all__ = ["CALIBRATORS", "Calibrator", "Observed", "get"]
