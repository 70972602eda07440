"""Nothing here can be collected where the rtl extra is not installed."""

import random
from importlib.util import find_spec

import pytest

if find_spec("amaranth") is None:
    collect_ignore_glob = ["test_rtl_*.py"]


@pytest.fixture
def rng_rows():
    from rtl_drive import random_row

    return lambda fmt: [random_row(fmt, 12, random.Random(i)) for i in range(200)]
