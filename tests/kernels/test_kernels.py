"""Choosing a backend, and what the Numba one does with threads and memory."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from overq import kernels
from overq.errors import BackendError, InputError, UnsupportedModeError
from overq.kernels import array, numba_cpu
from overq.spec import Format

FMT = Format(4, 4)


def activations(*shape: int) -> np.ndarray:
    return np.maximum(np.random.default_rng(0).standard_normal(shape), 0).astype(np.float32)


def test_asking_by_name_works_or_lists_what_exists() -> None:
    assert kernels.get("array") is array
    assert kernels.get("numba") is numba_cpu
    with pytest.raises(BackendError, match=r"^no kernel backend 'cuda'; there are auto, numba, triton, array$"):
        kernels.get("cuda")


def test_auto_says_what_it_chose() -> None:
    assert kernels.chosen("cpu") == "numba"
    assert kernels.get("auto") is numba_cpu
    assert kernels.chosen("mps") == "array"
    assert list(kernels.available()) == list(kernels.BACKENDS)


def test_without_numba_auto_falls_back_openly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels.BACKENDS, "numba", "overq.kernels.not_installed")
    assert kernels.chosen("cpu") == "array"
    assert "not_installed" in str(kernels.available()["numba"])
    with pytest.raises(BackendError, match=r"^kernel backend 'numba' cannot run here: No module named"):
        kernels.get("numba")


def test_a_backend_without_a_mode_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array, "MODES", ("range",))
    kernels.get("array", Format(4, 4, fraction_bits=0))
    with pytest.raises(UnsupportedModeError, match=r"^kernel backend 'array' does not implement precision overwrite; it has range$"):
        kernels.get("array", FMT)


def test_importing_overq_imports_no_heavy_library() -> None:
    code = "import overq, overq.kernels, sys; print([m for m in ('torch', 'numba', 'triton', 'amaranth') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("shape", [(3, 37, 150), (1, 70, 9000), (2, 40, 7, 7), (5, 3000), (1, 1)])
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same(shape: tuple[int, ...], threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_cpu, "SMALL", 0)
    x = activations(*shape)
    y, counts = numba_cpu.overwrite_counted(x, 0.1, FMT, 1, threads)
    assert np.array_equal(y, array.overwrite(x, 0.1, FMT, 1))
    assert counts == array.counts(array.fixed(x, 0.1, FMT), FMT, 1)


def test_threads_of_the_caller_do_not_disturb_each_other() -> None:
    inputs = [activations(2, 64, 40, 40) * (i + 1) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda x: numba_cpu.overwrite(x, 0.1, FMT, 1), inputs))
    for x, y in zip(inputs, outputs, strict=True):
        assert np.array_equal(y, array.overwrite(x, 0.1, FMT, 1))


def test_as_many_threads_as_torch_has() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert numba_cpu._threads(torch.ones(1)) == 1
    finally:
        torch.set_num_threads(before)


def test_the_numba_backend_refuses_other_devices() -> None:
    with pytest.raises(InputError, match=r"^the numba backend works on the CPU, not on a tensor on meta$"):
        numba_cpu.overwrite(torch.ones(2, 2, device="meta"), 0.1, FMT)


def test_a_second_process_does_not_compile() -> None:
    numba_cpu.overwrite(torch.ones(2, 8, 8, 8), 0.1, FMT, 1)
    code = """
import torch
from numba.core import event
compiled = []
class Listener(event.Listener):
    def on_start(self, e): compiled.append(e.data)
    def on_end(self, e): pass
event.register("numba:compile", Listener())
from overq.kernels import numba_cpu
from overq.spec import Format
numba_cpu.overwrite(torch.ones(2, 8, 8, 8), 0.1, Format(4, 4), 1)
print(len(compiled))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "0"
