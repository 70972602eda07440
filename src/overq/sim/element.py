"""One processing element in one cycle (design, section 2), for any number of elements at once."""

from __future__ import annotations

import numpy as np

from overq.spec import Format, State, shift


def product(digit: np.ndarray, state: np.ndarray, own: np.ndarray, previous: np.ndarray, fmt: Format) -> np.ndarray:
    """(digit · weight) << shift, int64: what an element adds to the partial sum.

    digit, state   what stands before the element this cycle
    own, previous  its weight and the weight of the row before
    """
    weight = np.where(state == State.OWN, own, previous)
    return (digit.astype(np.int64) * weight) << np.array([shift(code, fmt) for code in State])[state]
