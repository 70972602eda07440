"""A language model's calibration (time, peak memory) and its prefill and decode, quantized beside float.

    python benchmarks/language.py hf:DIRECTORY --text FILE.txt

DIRECTORY and FILE as for `overq evaluate --task text`. Two threads. Calibrating is `observe` and the fit of every layer's step on 8
windows of 512 tokens, in a process of its own, so that the peak is its own: interpreter, libraries and the float network included.
Prefill is one window of 512 tokens; decode is one token at a time behind 64 of context, with keys and values cached, mean of 16. Float
and quantized runs take turns; figures are medians, and the ratio is the median of the pairs'. Without gradients, as overq itself and
transformers' `generate` run; in PyTorch's inference mode tensors have no versions, so what q, k and v read is quantized for each of them.
Results go to benchmarks/results/language.json, with the load of the machine before each part: where others use it, trust ratios and CPU
seconds alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # as the command line does

import torch

from overq.nn import observe, quantize
from overq.study.language import encoder_of, usual
from overq.study.models import load_model
from overq.study.text import open_text
from overq.study.version import versions

OUT = Path(__file__).parent / "results" / "language.json"
RECIPE = usual((4,), ())[-1][1]  # OverQ A4 as the command has it: a step for each token
CONTEXT, TOKENS = 64, 16  # of decoding


def calibration(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peaks of loading the network, observing the windows, and finding every layer's step."""
    begin = _now()
    windows = open_text(options.text, encoder_of(options.model, options.tokenizer), options.window, options.windows)
    model = load_model(options.model, None)
    found = {"windows": windows.count, "window": options.window, "threads": options.threads, "load": _so_far(begin)}
    begin = _now()
    seen = observe(model, windows.batches(1))
    found["observe"] = _so_far(begin)
    begin = _now()
    quantize(model, seen, RECIPE, check=False)
    found["fit"] = _so_far(begin)
    return found


def _now() -> tuple[float, float]:
    """Seconds of wall and of CPU."""
    return time.perf_counter(), time.process_time()


def _so_far(begin: tuple[float, float]) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wall, cpu = (round(now - then, 1) for now, then in zip(_now(), begin, strict=True))
    return {"seconds": wall, "CPU seconds, all threads": cpu, "peak GiB so far": round(peak, 2)}


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of float and quantized, prefill and decode."""
    windows = open_text(options.text, encoder_of(options.model, options.tokenizer), options.window, 2)
    model = load_model(options.model, None)
    quantized = quantize(model, windows.load([0]), RECIPE, check=False)
    ids = windows.load([1])
    with torch.no_grad():
        found = {"prefill": _paired(lambda m: _prefill(m, ids), model, quantized, options.repeats)}
        if hasattr(model, "config"):
            found["decode"] = _paired(lambda m: _decode(m, ids[:, : CONTEXT + TOKENS]), model, quantized, options.repeats)
    with torch.inference_mode():
        found["prefill in inference mode"] = _paired(lambda m: _prefill(m, ids), model, quantized, options.repeats)
    return {"window": options.window, "context": CONTEXT, "threads": options.threads, "recipe": RECIPE.to_json(), **found}


def _paired(run: Callable[[torch.nn.Module], float], model: torch.nn.Module, quantized: torch.nn.Module, repeats: int) -> dict[str, Any]:
    """Each in turn; the first pair warms up."""
    pairs = [(run(model), run(quantized)) for _ in range(repeats + 1)][1:]
    ratios = sorted(b / a for a, b in pairs)
    floats, ours = zip(*pairs, strict=True)
    ms = {"float ms": round(1e3 * median(floats), 2), "quantized ms": round(1e3 * median(ours), 2)}
    return {**ms, "ratio": round(median(ratios), 3), "ratios": [round(r, 3) for r in ratios]}


def _prefill(model: torch.nn.Module, ids: torch.Tensor) -> float:
    begin = time.perf_counter()
    model(ids)
    return time.perf_counter() - begin


def _decode(model: torch.nn.Module, ids: torch.Tensor) -> float:
    """Seconds a token."""
    cache = model(ids[:, :CONTEXT], use_cache=True).past_key_values
    begin = time.perf_counter()
    for t in range(CONTEXT, ids.shape[1]):
        cache = model(ids[:, t : t + 1], past_key_values=cache, use_cache=True).past_key_values
    return (time.perf_counter() - begin) / (ids.shape[1] - CONTEXT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="as for `overq evaluate --task text --model`")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokenizer")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--part", choices=("calibration", "speed"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        torch.set_num_threads(options.threads)
        print(json.dumps({"calibration": calibration, "speed": speed}[options.part](options)))
        return
    found: dict[str, Any] = {"cores": os.cpu_count(), **versions()}
    for part in ("calibration", "speed"):
        load = os.getloadavg()[0]
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--part", part], check=True, stdout=subprocess.PIPE, text=True)
        found[part] = {"load before": round(load, 2), **json.loads(done.stdout)}
        print(part, found[part], flush=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
