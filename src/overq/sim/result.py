"""Result: what passing a layer through the array gives, the same from the stepped and the fast model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Result(NamedTuple):
    """sums        int64 [vectors, outputs], the finished accumulators, with the accumulator's fraction bits
    cycles      from the first weight loaded to the last sum out
    folds       tiles of weights loaded
    busy        element-cycles in which an element held a lane and an output of the layer
    multiplied  of these, with a digit other than 0
    """

    sums: np.ndarray
    cycles: int
    folds: int
    busy: int
    multiplied: int
