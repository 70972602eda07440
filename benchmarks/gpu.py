"""Figures of whole networks on a graphics card: `python benchmarks/gpu.py` (benchmarks/gpu.sh runs it with everything else).

Float, plain 4 bits and OverQ of ResNet-50's shape (float32, channels-last, batch 64 at 224 × 224) and of a Llama block (bfloat16, width
4096, 2 × 2048 tokens), with random weights, since time does not depend on them: compiled, medians of interleaved rounds. And what
quantizing the block takes: seconds, and peak memory beside the weights'. Written to benchmarks/results/gpu-<card>.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import overq
from overq import kernels
from overq.spec import Format
from overq.study.version import commit, package

ROOT = Path(__file__).parents[1]
RECIPES = {
    "plain": overq.Recipe(Format(4, 0, 0, 0)),
    "range": overq.Recipe(Format(4, 4, fraction_bits=0)),
    "both": overq.Recipe(Format(4, 4)),
    "largest": overq.Recipe(Format(4, 8, policy="largest")),
}


class Bottleneck(nn.Module):
    """ResNet-50's block, the stride in its middle convolution; its batch norms count as folded."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(inputs, width, 1), nn.Conv2d(width, width, 3, stride, 1)
        self.out = nn.Conv2d(width, 4 * width, 1)
        self.aside = nn.Conv2d(inputs, 4 * width, 1, stride) if stride > 1 or inputs != 4 * width else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.out(F.relu(self.three(F.relu(self.one(x))))) + self.aside(x))


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for i in range(count):
            layers.append(Bottleneck(inputs, width, 2 if stage and not i else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


class Block(nn.Module):
    """A decoder layer as Llama's, without rotation: norms, attention of `heads`, gated feed-forward of width `inner`."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.before(x)
        q, k, v = (layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        y = self.between(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def race(contenders: dict[str, Callable[[], Any]], rounds: int, wait: Callable[[], None]) -> dict[str, float]:
    """Median milliseconds of each, round after round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        for _ in range(3):
            run()
    for _ in range(rounds):
        for name, run in contenders.items():
            wait()
            begin = time.perf_counter()
            run()
            wait()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(each) * 1e3 for name, each in times.items()}


def networks(name: str, model: nn.Module, x: torch.Tensor, rounds: int, wait: Callable[[], None]) -> dict[str, Any]:
    """Times of the float network and of each recipe, compiled; ratios to float."""
    contenders: dict[str, nn.Module] = {"float": model} | {key: overq.quantize(model, x[:1], recipe) for key, recipe in RECIPES.items()}
    with torch.inference_mode():
        times = race({key: partial(torch.compile(net), x) for key, net in contenders.items()}, rounds, wait)
    print(f"{name}: " + ", ".join(f"{key} {ms:.2f} ms ({ms / times['float']:.2f})" for key, ms in times.items()), flush=True)
    return {"shape": list(x.shape), "dtype": str(x.dtype), "ms": times}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small shapes on the CPU, to try the script; writes nothing")
    tiny = parser.parse_args().tiny
    if not tiny and not torch.cuda.is_available():
        print("no GPU that torch can use here: nothing was measured", file=sys.stderr)
        return 3
    torch.manual_seed(0)
    device, wait, rounds = ("cpu", lambda: None, 1) if tiny else ("cuda", torch.cuda.synchronize, 15)
    images, (width, inner, tokens) = (1, 32) if tiny else (64, 224), (64, 128, 16) if tiny else (4096, 11008, 2048)
    results: dict[str, Any] = {
        "card": "none" if tiny else torch.cuda.get_device_name(), "torch": torch.__version__, "python": platform.python_version(),
        "cuda": torch.version.cuda, "overq": overq.__version__, "commit": commit(package()), "backend": kernels.chosen(device),
    }  # fmt: skip
    print(results)
    net = resnet50().eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(images[0], 3, images[1], images[1], device=device).to(memory_format=torch.channels_last)
    results["ResNet-50"] = networks("ResNet-50", net, x, rounds, wait)
    del net
    block = Block(width, inner, 2 if tiny else 32).eval().to(device, torch.bfloat16)
    x = torch.randn(2, tokens, width, device=device, dtype=torch.bfloat16)
    results["Llama block"] = networks("Llama block", block, x, rounds, wait)
    if not tiny:
        results["quantizing the block"] = quantizing(block, x)
        name = re.sub(r"\W+", "-", results["card"]).strip("-").lower()
        path = ROOT / "benchmarks" / "results" / f"gpu-{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(path.relative_to(ROOT))
    return 0


def quantizing(block: nn.Module, x: torch.Tensor) -> dict[str, float]:
    """Seconds, and the most memory that was held beyond what was there, in units of the weights."""
    weights = sum(p.numel() * p.element_size() for p in block.parameters())
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    overq.quantize(block, x[:1], RECIPES["both"])
    torch.cuda.synchronize()
    found = {"seconds": time.perf_counter() - begin, "peak beside the weights": (torch.cuda.max_memory_allocated() - before) / weights}
    print("quantizing the block:", found, flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
