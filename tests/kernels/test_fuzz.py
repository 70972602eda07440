"""The fuzz command: finds a planted mistake, minimizes it, resumes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from overq import kernels
from overq.kernels import array, fuzz
from overq.spec import Format


def test_equal_backends_pass_and_the_state_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--vectors", "1000", "--backend", "array", "--mode", "both-first-unsigned", "--state", str(tmp_path / "state.json")]
    assert fuzz.main(command) == 0
    (done,) = json.loads((tmp_path / "state.json").read_text()).values()
    assert done["vectors"] >= 1000
    assert done["definition"] == fuzz.SHARE * done["batches"]
    assert fuzz.main(command) == 0
    assert json.loads((tmp_path / "state.json").read_text())[f"array 1 {fuzz.code()} both-first-unsigned"] == done  # nothing was done twice
    assert "lane vectors equal" in capsys.readouterr().out


def test_a_planted_mistake_is_found_and_minimized(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def encode(t: np.ndarray, fmt: Format, axis: int = -1) -> tuple[np.ndarray, np.ndarray]:
        return array.encode(t, fmt.with_(cascade=1), axis)  # forgets to cascade

    broken = SimpleNamespace(encode=encode, counts=array.counts, overwrite=array.overwrite)
    monkeypatch.setattr(kernels, "get", lambda name: broken)
    assert fuzz.main(["--vectors", "100000", "--mode", "range-first-unsigned"]) == 1
    report = capsys.readouterr().out
    assert report.startswith("MISMATCH range-first-unsigned, batch ")
    row = json.loads(report.partition("smallest row t = ")[2])
    assert len(row) == 3  # an outlier, a value that moves, a zero


def test_the_record_has_ten_million_vectors_of_every_mode() -> None:
    record = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "fuzz.json").read_text())
    by_mode = {key.split()[-1]: done["vectors"] for key, done in record.items()}
    assert set(by_mode) == {name for name, _ in fuzz.modes()}
    assert min(by_mode.values()) >= 10**7


def test_an_unknown_mode_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        fuzz.main(["--mode", "sideways"])
    assert "no mode 'sideways'" in capsys.readouterr().err


def test_a_backend_that_cannot_run_and_a_broken_state_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state.json").write_text("{")
    for words, message in (
        (["--backend", "abacus"], "no kernel backend 'abacus'; there are auto, numba, triton, array\n"),
        (["--state", str(tmp_path / "state.json")], "state.json: not a state that this command wrote (JSONDecodeError)\n"),
    ):
        with pytest.raises(SystemExit, match="2"):
            fuzz.main(words)
        assert capsys.readouterr().err.endswith(message)
    assert (tmp_path / "state.json").read_text() == "{", "left as it was"
