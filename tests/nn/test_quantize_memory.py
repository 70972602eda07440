"""Memory of `quantize`: the copy, and a little more."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import overq
from overq.errors import FidelityError
from overq.nn.replica import own, ready

PROGRAM = """
import ctypes, sys
import torch
from torch import nn
import overq

ctypes.CDLL(None).mallopt(-3, 65536)  # what is freed goes back to the system
torch.set_num_threads(1)
dtype, rotated = getattr(torch, sys.argv[1]), sys.argv[2] == "rotated"
model = nn.Sequential(*[m for _ in range(12) for m in (nn.Linear(1024, 1024), nn.ReLU())]).to(dtype)
x, recipe = torch.rand(8, 1024, dtype=dtype), overq.Recipe(calibration="max", first=None, last=None, rotate=rotated)
overq.quantize(nn.Sequential(nn.Linear(64, 8)), torch.rand(8, 64), recipe)  # kernels, and what imports on first use

def resident(what):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(what))

open("/proc/self/clear_refs", "w").write("5")
before = resident("VmRSS")
quantized = overq.quantize(model, x, recipe)
print(resident("VmHWM") - before, sum(p.nbytes for p in model.parameters()), sum(t.nbytes for t in quantized.state_dict().values()))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a process's peak")
@pytest.mark.parametrize(("dtype", "recipe"), [
    ("bfloat16", "rotated"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [("bfloat16", "plain"), ("float32", "rotated"), ("float32", "plain")]),
])  # fmt: skip
def test_quantizing_takes_the_memory_of_its_result_and_of_one_layer(dtype: str, recipe: str) -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM, dtype, recipe], capture_output=True, text=True, check=True)
    peak, weights, integers = map(int, run.stdout.split())
    layer = 4 << 20  # as float32
    assert weights + integers <= peak + layer  # what is kept
    assert peak <= weights + integers + 6 * layer


def test_the_copy_shares_no_memory_with_the_model() -> None:
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    recipe = overq.Recipe(bias_correction=True)
    quantized = overq.quantize(model.eval(), torch.randint(9, (4, 5)), recipe)
    theirs = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    assert not theirs & {t.untyped_storage().data_ptr() for t in (*quantized.parameters(), *quantized.buffers())}


def test_tied_weights_stay_tied_and_become_the_copy_s_own() -> None:
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9, bias=False))
    model[1].weight = model[0].weight
    copy = ready(model, borrow=True)
    assert copy[1].weight is copy[0].weight is not model[0].weight
    assert copy[0].weight.data_ptr() == model[0].weight.data_ptr()
    own(copy, model)
    assert copy[1].weight is copy[0].weight
    assert copy[0].weight.data_ptr() != model[0].weight.data_ptr()
    assert torch.equal(copy[0].weight, model[0].weight)


class Decays(nn.Module):
    """Changes its own weight in each run."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.layer.weight.data.mul_(0.9)
        return self.layer(x)


def test_a_model_that_changes_its_weights_while_it_is_observed_is_refused() -> None:
    with pytest.raises(FidelityError, match=r"^layer 'layer': something writes into its weight while the model runs"):
        overq.observe(Decays(), torch.rand(4, 8))
