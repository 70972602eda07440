"""The two doors between real numbers and integers (design, section 1.1): every backend takes its factors from here."""

from __future__ import annotations

import math

import numpy as np

from overq.errors import InputError
from overq.spec import Format


def factors(step: float, fmt: Format) -> tuple[np.float32, np.float32]:
    """(r, q): t = floor(x · r) on the way in and y = E · q on the way out, both products in float32.

    r = float32(2^(f+1) / step), q = float32(step / 2^f). A step that is not positive, or that float32 cannot hold, is refused.
    """
    step = float(step)
    if math.isfinite(step) and step > 0:
        with np.errstate(over="ignore", under="ignore"):
            r = np.float32(fmt.unit / step)
            q = np.float32(step / (1 << fmt.fraction_bits))
        if np.isfinite(r) and r > 0 and np.isfinite(q) and q >= np.finfo(np.float32).tiny:
            return r, q
    raise InputError(f"step must be a positive number within float32's normal range, not {step!r}")
