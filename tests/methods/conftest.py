"""Fixtures of the laws: every case, unsigned and signed, with a long-tailed sample."""

import pytest
from method_cases import cases, fit, long_tailed


@pytest.fixture(params=cases())
def method(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["unsigned", "signed"])
def signed(request):
    return request.param


@pytest.fixture
def sample(signed):
    return long_tailed(signed=signed)


@pytest.fixture
def fitted(method, signed):
    """The method fitted to `sample`."""
    return fit(method, signed)
