"""PyTorch's own ways out of Python: what a quantized network gives there is what it gives here."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import overq
from overq.spec import Format


@cache
def case() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """(a quantized network with groups and a matrix product, an input, its answer)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    x = torch.randn(6, 3, 8, 8)
    model = overq.quantize(net.eval(), x, overq.Recipe(Format(4, 4), first=None, last=None))
    with torch.no_grad():
        return model, x, model(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
def test_a_traced_model_runs_other_batches_and_from_a_file(tmp_path: Path) -> None:
    model, x, wanted = case()
    traced = torch.jit.trace(model, x[:2])
    assert torch.equal(traced(x), wanted)
    torch.jit.save(traced, tmp_path / "m.pt")
    assert torch.equal(torch.jit.load(tmp_path / "m.pt")(x), wanted)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_an_exported_program_runs_other_batches_and_from_a_file(tmp_path: Path) -> None:
    model, x, wanted = case()
    program = torch.export.export(model, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert torch.equal(program.module()(x), wanted)
    torch.export.save(program, tmp_path / "m.pt2")
    assert torch.equal(torch.export.load(tmp_path / "m.pt2").module()(x), wanted)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_inductor_compiles_around_the_operator() -> None:
    model, x, wanted = case()
    with torch.no_grad():
        try:
            got = torch.compile(model)(x)
        except Exception as error:
            if "compiler" not in str(error).lower():
                raise
            pytest.skip(f"no C++ compiler that inductor takes: {' '.join(str(error).split())[:80]}")
    assert float((got - wanted).abs().max()) <= 1e-2 * float(wanted.abs().max())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_ahead_of_time_compiled_package_calls_the_operator(tmp_path: Path) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler, which AOTInductor needs")
    model, x, wanted = case()
    with torch.no_grad():
        program = torch.export.export(model, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "m.pt2"))
        got = torch._inductor.aoti_load_package(package)(x)
    assert float((got - wanted).abs().max()) <= 1e-2 * float(wanted.abs().max())
