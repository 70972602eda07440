"""What is kept of a stream."""

from __future__ import annotations

import numpy as np
import pytest

from overq.calib import thinned


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 25])
def test_a_thinned_sample_is_small_and_from_all_of_the_stream(count: int) -> None:
    rows = thinned(np.arange(count, dtype=np.float32)[:, None], 10)[:, 0]
    assert len(rows) <= 10
    assert len(rows) >= min(count, 6)
    assert count == 0 or (rows[0] == 0 and rows[-1] >= count - 3)
