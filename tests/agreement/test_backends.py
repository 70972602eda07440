"""Every kernel backend against the definition. A new backend is tested by being listed in `BACKENDS`."""

from __future__ import annotations

from types import ModuleType

import pytest
from body import agree, exhaustive_rows, formats_to_exhaust, long_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from overq import kernels
from overq.spec import Format
from strategies import formats, rows


@pytest.fixture(params=list(kernels.BACKENDS))
def backend(request: pytest.FixtureRequest) -> ModuleType:
    why_not = kernels.available()[request.param]
    if why_not is not None:
        pytest.skip(f"backend {request.param} cannot run here: {why_not}")
    return kernels.get(request.param)


def test_every_combination_of_four_lanes(backend: ModuleType) -> None:
    """Triton's interpreter takes minutes for all formats: here it gets every 20th, in the slow test all."""
    for fmt in formats_to_exhaust()[:: 20 if "triton" in backend.__name__ else 1]:
        agree(backend, exhaustive_rows(fmt), fmt)


@pytest.mark.slow
def test_every_combination_of_four_lanes_in_every_format(backend: ModuleType) -> None:
    for fmt in formats_to_exhaust():
        agree(backend, exhaustive_rows(fmt), fmt)


@pytest.mark.slow
def test_every_combination_of_six_lanes(backend: ModuleType) -> None:
    for fmt in (Format(2, 4), Format(2, 4, policy="largest"), Format(2, 3, signed=True), Format(3, 2, fraction_bits=0, lanes=4)):
        agree(backend, exhaustive_rows(fmt, 6), fmt)


@pytest.mark.parametrize(("lanes", "count"), [(1, 3), (63, 2), (64, 65), (65, 130), (200, 70), (700, 20)])
@pytest.mark.parametrize(
    "fmt",
    [
        Format(4, 4),
        Format(3, 16, policy="largest", signed=True, lanes=48),
        Format(8, 3, policy="largest"),
        Format(8, 16, fraction_bits=0),
        Format(4, 8, policy="largest", signed=True, lanes=48, evict=2),
    ],
    ids=lambda f: f"b{f.bits}c{f.cascade}",
)
def test_rows_longer_than_a_word_and_a_block(backend: ModuleType, fmt: Format, lanes: int, count: int) -> None:
    if "triton" in backend.__name__ and lanes > 65:
        pytest.skip("Triton's interpreter is too slow for the long rows, and has no words and blocks to cross")
    agree(backend, long_rows(fmt, lanes, count), fmt)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_format_and_rows(data: st.DataObject) -> None:
    fmt = data.draw(formats())
    some = data.draw(rows(fmt))
    for name in ("array", "numba"):
        agree(kernels.get(name), some, fmt)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_format_and_rows_in_triton(data: st.DataObject) -> None:
    if (why_not := kernels.available()["triton"]) is not None:
        pytest.skip(f"backend triton cannot run here: {why_not}")
    fmt = data.draw(formats())
    agree(kernels.get("triton"), data.draw(rows(fmt)), fmt)
