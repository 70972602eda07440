"""The golden files are what the script makes, and every backend reproduces them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from test_backends import backend  # noqa: F401  (the fixture)

from overq.spec import Format, State, dot, unpack

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests" / "golden").glob("*.json"))


def test_the_files_are_what_the_script_makes() -> None:
    spec = importlib.util.spec_from_file_location("make_golden", ROOT / "scripts" / "make_golden.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert {path.name: path.read_text() for path in FILES} == script.files()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_backend_reproduces_it(backend: ModuleType, path: Path) -> None:  # noqa: F811
    for case in json.loads(path.read_text())["cases"]:
        fmt = Format.from_json(case["format"])
        for row in case["rows"]:
            digits, states = (np.asarray(a) for a in backend.encode(np.array([row["t"]]), fmt))
            assert (digits[0].tolist(), states[0].tolist()) == (row["digits"], row["states"])
            assert np.asarray(backend.effective(digits, states, fmt))[0].tolist() == row["effective"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_packed_bytes_and_sums(path: Path) -> None:
    for case in json.loads(path.read_text())["cases"]:
        fmt = Format.from_json(case["format"])
        for row in case["rows"]:
            lanes = unpack(bytes.fromhex(row["packed"]), len(row["t"]), fmt)
            assert [lane.digit for lane in lanes] == row["digits"]
            assert [State(lane.state) for lane in lanes] == row["states"]
            assert (
                dot(lanes, row["weights"], fmt) == row["dot"] == sum(e * w for e, w in zip(row["effective"], row["weights"], strict=True))
            )
