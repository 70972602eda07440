"""Real networks and images that lie beside the checkout or where OVERQ_DATA says; a test that needs them skips where they are absent."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(os.environ.get("OVERQ_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (FOLDER / "networks.py").is_file(), reason=f"real networks are absent: no networks.py in {FOLDER}")


def networks() -> ModuleType:
    """The loader module that comes with the data."""
    spec = importlib.util.spec_from_file_location("networks", FOLDER / "networks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
