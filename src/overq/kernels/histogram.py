"""Counting values into bins at memory speed, compiled by Numba."""

from __future__ import annotations

import numpy as np
from numba import njit

WAYS = 4  # histograms side by side: half of the values fall into one bin, and an increment waits for the last one of its bin
PART = 1 << 24  # values at once, so that 32 bits hold their counts


@njit(cache=True, nogil=True, error_model="numpy")
def _count(values: np.ndarray, factor: np.float32, counts: np.ndarray) -> None:
    half = counts.shape[1] // 2
    whole = values.size - values.size % WAYS
    for i in range(0, whole, WAYS):
        for way in range(WAYS):
            counts[way, np.int64(np.floor(values[i + way] * factor)) + half] += 1
    for i in range(whole, values.size):
        counts[0, np.int64(np.floor(values[i] * factor)) + half] += 1


def count(values: np.ndarray, factor: np.float32, bins: int) -> np.ndarray:
    """Int64 [bins]: how many of the float32 values have floor(value · factor) = i - bins / 2.

    The product is in float32. Every value must fall into a bin: nothing is checked.
    """
    values = np.ascontiguousarray(values).reshape(-1)
    total = np.zeros(bins, np.int64)
    for start in range(0, values.size, PART):
        counts = np.zeros((WAYS, bins), np.uint32)
        _count(values[start : start + PART], np.float32(factor), counts)
        total += counts.sum(axis=0, dtype=np.int64)
    return total
