"""What several of these tests ask for by name."""

from __future__ import annotations

import warnings

import pytest
import torch

from overq.errors import MostlyFloatWarning


@pytest.fixture
def seeded_quietly() -> None:
    """Weights are the same each time, and no warning that says what these small models are is raised."""
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=MostlyFloatWarning)
    warnings.filterwarnings("ignore", message=".*nested tensors is in prototype")
