"""The agreement body rejects every wrong implementation, and accepts the definition run through the same harness."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from encoders import BROKEN, Implementation

_path = Path(__file__).parents[1] / "agreement" / "body.py"
_spec = importlib.util.spec_from_file_location("agreement_body", _path)
assert _spec is not None
assert _spec.loader is not None
body = importlib.util.module_from_spec(_spec)
sys.modules["agreement_body"] = body
_spec.loader.exec_module(body)


def all_agree(implementation: Implementation, every: int) -> None:
    for fmt in body.formats_to_exhaust():
        body.agree(implementation, body.exhaustive_rows(fmt)[::every], fmt)


def test_the_definition_itself_is_accepted() -> None:
    all_agree(Implementation(), 101)


@pytest.mark.parametrize("name", BROKEN)
def test_wrong_encoders_are_rejected(name: str) -> None:
    with pytest.raises((AssertionError, ValueError)):  # ValueError: a state the definition refuses to add up
        all_agree(BROKEN[name], 11)
