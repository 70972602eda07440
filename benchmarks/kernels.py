"""Time the overwrite kernels: `python benchmarks/kernels.py` (add `--networks`, `--quick`).

Every figure is a median over interleaved rounds in one process: round after round, each contender runs once, so that whatever
else the machine does hits all alike. Outputs are allocated anew each time, as in a network. Results go to
benchmarks/results/kernels-<device>.json and a table to the terminal. With a GPU that torch can use, the same command measures it
(native Triton against clone on a 1 GiB tensor, contiguous and channels-last).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import overq
from overq import kernels
from overq.kernels import array
from overq.nn.op import overwrite
from overq.spec import Format

ROOT = Path(__file__).parents[1]
RANGE, BOTH = Format(4, 4, fraction_bits=0), Format(4, 4)
LARGEST = Format(4, 4, policy="largest")
STEP = 0.1

# Inputs of ResNet-50's convolutions at 224 × 224, batch 16
LAYERS = [(64, 56), (256, 56), (128, 56), (128, 28), (512, 28), (256, 28), (256, 14), (1024, 14), (512, 14), (512, 7), (2048, 7)]


def race(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, interleaved in shuffled order: what runs before leaves the allocator in its own state."""
    sync = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    names = list(contenders)
    for i in range(rounds):
        for name in random.Random(i).sample(names, len(names)):
            sync()
            begin = time.perf_counter()
            contenders[name]()
            sync()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) * 1e3 for name, times in seconds.items()}


def tensor(shape: tuple[int, ...], channels_last: bool, device: str) -> torch.Tensor:
    """Post-ReLU activations: half of them zero, a twentieth beyond 15 steps."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu().mul_(0.77).to(device)
    return x.to(memory_format=torch.channels_last) if channels_last else x


def operators(x: torch.Tensor, rounds: int, slow: bool) -> dict[str, float]:
    contenders = {
        "clone": lambda: x.clone(),
        "range": lambda: overwrite(x, STEP, RANGE),
        "both": lambda: overwrite(x, STEP, BOTH),
        "largest": lambda: overwrite(x, STEP, LARGEST),
        "fake_quantize": lambda: torch.fake_quantize_per_tensor_affine(x, STEP, 0, 0, 15),
    }
    times = race(contenders, rounds)
    if slow:
        times["array"] = race({"array": lambda: array.overwrite(x, STEP, RANGE, 1)}, 3)["array"]
    return times


def encoders(x: torch.Tensor, rounds: int) -> dict[str, float]:
    t = array.fixed(x, STEP, BOTH)
    backend = kernels.get("auto", BOTH, x.device.type)
    return race(
        {
            "clone": lambda: x.clone(),
            "encode": lambda: backend.encode(t, BOTH, 1),
            "counts": lambda: backend.counts(t, BOTH, 1),
            "overwrite_counted": lambda: backend.overwrite_counted(x, STEP, BOTH, 1),
        },
        rounds,
    )


def first_call() -> dict[str, float]:
    """Seconds in a new process with a warm cache, torch imported already: import the kernel, and the first call."""
    code = """
import time, torch
x = torch.ones(2, 64, 56, 56)
a = time.perf_counter()
from overq.kernels import numba_cpu
b = time.perf_counter()
from overq.spec import Format
numba_cpu.overwrite(x, 0.1, Format(4, 4), 1)
print(b - a, time.perf_counter() - b)
"""
    runs = [list(map(float, subprocess.check_output([sys.executable, "-c", code], text=True).split())) for _ in range(6)][1:]
    return {"import": statistics.median(r[0] for r in runs), "call": statistics.median(r[1] for r in runs)}


def network(layout: torch.memory_format, device: str, rounds: int) -> dict[str, float]:
    """ResNet-50's shape, batch 16 at 224 × 224: float, plain 4 bits through fake quantization's rule, and OverQ."""
    folder = Path(os.environ.get("OVERQ_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "networks.py").exists():
        raise SystemExit(f"the network benchmark needs networks.py in {folder}; set OVERQ_DATA to its folder")
    spec = importlib.util.spec_from_file_location("networks", folder / "networks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["networks"] = module
    spec.loader.exec_module(module)
    model = module.resnet50().eval().to(device, memory_format=layout)
    x = torch.randn(16, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device, memory_format=layout)
    quantized = {
        "range": overq.quantize(model, x[:2], overq.Recipe(RANGE)),
        "both": overq.quantize(model, x[:2], overq.Recipe(BOTH)),
    }
    contenders: dict[str, Callable[[Any], Any]] = {"float": model, **quantized}
    if device == "cuda":
        contenders = {name: torch.compile(net) for name, net in contenders.items()}
    with torch.inference_mode():
        return race({name: partial(m, x) for name, m in contenders.items()}, rounds)


def machine() -> dict[str, Any]:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?"
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    load = os.getloadavg()[0]
    versions = {name: __import__(name).__version__ for name in ("torch", "numba", "numpy")}
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        "load at start": round(load, 1),
        **versions,
    }


def show(title: str, times: dict[str, float], base: str = "clone") -> None:
    parts = [f"{name} {ms:.2f} ms" + ("" if name == base else f" ({ms / times[base]:.2f})") for name, ms in times.items()]
    print(f"{title}: " + ", ".join(parts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the overwrite kernels against clone, fake_quantize and the array version.")
    parser.add_argument("--networks", action="store_true", help="also whole ResNet-50-shaped networks (needs networks.py, see OVERQ_DATA)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shapes")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rounds = 7 if options.quick else 21
    results: dict[str, Any] = {"machine": machine(), "backend": kernels.chosen(device), "operators": [], "networks": []}
    print(results["machine"], "backend:", results["backend"])
    shapes = [(16, c, s, s) for c, s in ([(256, 56)] if options.quick else LAYERS)]
    big = (64, 256, 128, 128) if device == "cuda" else (16, 256, 112, 112)
    for threads in (1, 2) if device == "cpu" else (1,):
        torch.set_num_threads(threads)
        for shape in [*shapes, big]:
            for channels_last in (False, True):
                x = tensor(shape, channels_last, device)
                layout = "channels_last" if channels_last else "contiguous"
                times = operators(x, max(3, rounds // 3) if shape == big else rounds, slow=shape == (16, 256, 56, 56))
                results["operators"].append({"shape": shape, "layout": layout, "threads": threads, "ms": times})
                show(f"{shape} {layout}, {threads} threads", times)
    x = tensor((16, 256, 56, 56), False, device)
    results["encoders"] = encoders(x, rounds)
    show("encoders (16, 256, 56, 56)", results["encoders"])
    if device == "cpu":
        results["first call, s"] = first_call()
        print("first call in a new process, warm cache:", results["first call, s"])
    if options.networks:
        for threads in (1, 2) if device == "cpu" else (1,):
            torch.set_num_threads(threads)
            for memory in (torch.contiguous_format, torch.channels_last):
                times = network(memory, device, 3 if options.quick else 7)
                results["networks"].append({"layout": str(memory).removeprefix("torch."), "threads": threads, "ms": times})
                show(f"ResNet-50 shape, batch 16, {memory}, {threads} threads", times, "float")
    path = ROOT / "benchmarks" / "results" / f"kernels-{device}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
