"""Whole quantized networks under torch.compile: no graph break, and the answers of the network as it is, without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_samples import IMAGES, Net
from torch import nn

import overq
from overq import Format, Recipe
from overq.methods import dynamic, method_of

FORMAT = Format(4, 2)
RECIPES = {
    "a step for a layer": Recipe(FORMAT),
    "policy largest, giving way": Recipe(Format(3, 4, policy="largest", evict=2)),
    "narrower second digits": Recipe(Format(4, 4, 1, 1)),
    "a step for each vector": Recipe(dynamic(method_of(FORMAT), "max", None)),
    "a step for each group": Recipe(dynamic(method_of(replace(FORMAT, lanes=4)), "rms", None)),
}


CASES = [
    ("a step for a layer", torch.float32),
    ("a step for a layer", torch.bfloat16),
    ("a step for each vector", torch.bfloat16),
    ("a step for each group", torch.float32),
    pytest.param("policy largest, giving way", torch.float32, marks=pytest.mark.slow),
    pytest.param("narrower second digits", torch.float32, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_a_quantized_network_compiles_without_a_break(name: str, dtype: torch.dtype) -> None:
    model = overq.quantize(Net().to(dtype), IMAGES[:16], RECIPES[name].with_(first=None, last=None), check=False)
    compiled: nn.Module = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for x in (IMAGES[:4].to(dtype), IMAGES[:7].to(dtype)):  # the second size makes the batch dynamic
            out = compiled(x)
            assert out.dtype == dtype
            assert torch.equal(out, model(x))
