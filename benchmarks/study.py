"""What the study runner costs, what workers gain, and an OverQ cell beside the float network.

python benchmarks/study.py --data ../shared/data runner     the runner against the bare evaluation, ResNet-20, one worker
python benchmarks/study.py --data ../shared/data workers    two workers with one thread each against one with two
python benchmarks/study.py --data ../shared/data resnet50   OverQ A4 against float, 64 images, two threads

Each figure is the median of interleaved runs, wall and CPU seconds, with the machine's load beside it: on a machine that
others use, trust the ratio of CPU seconds more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # as the command line does

import torch

from overq.nn import Recipe, observe, quantize
from overq.spec import Format
from overq.study import digits
from overq.study.cell import cells_of
from overq.study.data import Preprocess, open_images, some_of
from overq.study.models import load_model
from overq.study.plan import Network, Setting, Study
from overq.study.run import run
from overq.study.store import Store
from overq.study.workers import LocalWorkers

SETTINGS = tuple(Setting(name, (("bits", 4),), 8) for name in ("uniform", "overq", "sparq", "olive"))
WARM = Study("warm", (Network("digits", "overq.study.digits:network", "digits", "digits"),), (Setting("overq", weight_bits=8),), limit=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("runner", "workers", "resnet50"))
    parser.add_argument("--data", type=Path, required=True, help="the folder with networks.py")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=int, default=1000, help="images of ResNet-20")
    options = parser.parse_args()
    {"runner": runner, "workers": workers, "resnet50": resnet50}[options.what](options)


def runner(options: argparse.Namespace) -> None:
    study = resnet20(options, shards=2)
    compare("bare", lambda: bare(study, 1), "runner", lambda: through_runner(study, 1, 1), options.repeats)


def workers(options: argparse.Namespace) -> None:
    study = resnet20(options, shards=4)
    compare(
        "one worker, two threads", lambda: through_runner(study, 1, 2), "two workers", lambda: through_runner(study, 2, 2), options.repeats
    )


def resnet50(options: argparse.Namespace) -> None:
    """In one process: the networks by turns on the same batches."""
    folder = options.data / "imagenet"
    preprocess, model = Preprocess(None, 224), load_model(f"{options.data}/networks.py:resnet50")
    calibration = open_images(folder / "calibration", None, preprocess, labelled=False)
    x = some_of(open_images(folder / "images", folder / "labels.csv", preprocess), 64)
    batches = list(x.batches(16))
    begin = time.perf_counter()
    seen = observe(model, some_of(calibration, 64).batches(16))
    observed = time.perf_counter() - begin
    begin = time.perf_counter()
    quantized = quantize(model, [], Recipe(Format(4, 4)), seen=seen)
    print(f"once for a network: observing 64 images {observed:.1f} s; once for a setting: {time.perf_counter() - begin:.1f} s")
    compare("float", lambda: timed(model, batches), "OverQ A4 c=4", lambda: timed(quantized, batches), options.repeats)


def compare(a: str, first: Any, b: str, second: Any, repeats: int) -> None:
    """Print both medians and the median ratio of neighbours."""
    pairs = []
    for i in range(repeats):
        pairs.append((first(), second()))
        (wall_a, cpu_a), (wall_b, cpu_b) = pairs[-1]
        print(f"{i}: {a} {wall_a:.2f} s ({cpu_a:.2f} CPU), {b} {wall_b:.2f} s ({cpu_b:.2f} CPU), load {os.getloadavg()[0]:.1f}", flush=True)
    for i, what in enumerate(("wall", "CPU")):
        ratio = median(y[i] / x[i] for x, y in pairs)
        print(f"{what}: {a} {median(x[i] for x, _ in pairs):.2f} s, {b} {median(y[i] for _, y in pairs):.2f} s, ratio {ratio:.3f}")


def timed(model: torch.nn.Module, batches: list[torch.Tensor]) -> tuple[float, float]:
    begin, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return time.perf_counter() - begin, time.process_time() - cpu


def resnet20(options: argparse.Namespace, shards: int) -> Study:
    data = options.data.resolve()
    test, calibration = (str(data / "cifar10" / f"{name}.npz") for name in ("test5000", "calibration1000"))
    return Study(
        "bench", (Network("resnet20", f"{data}/networks.py:resnet20", test, calibration),), SETTINGS, shards=shards, limit=options.limit,
        batch_size=125,
    )  # fmt: skip


def bare(study: Study, threads: int) -> tuple[float, float]:
    """The evaluation as a script would write it, in a process of its own that is warm."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_bare, (study, threads))


def _bare(study: Study, threads: int) -> tuple[float, float]:
    torch.set_num_threads(threads)
    x, small = digits.images("calibration")[0], digits.network()
    quantize(small, x[:50])(x[:50])
    begin, cpu = time.perf_counter(), time.process_time()
    (network,) = study.networks
    model, preprocess = load_model(network.model), Preprocess(None, None)
    images = some_of(open_images(Path(network.images), None, preprocess), study.limit)
    calibration = some_of(open_images(Path(network.calibration), None, preprocess), study.samples)
    seen = observe(model, calibration.batches(study.batch_size))
    for setting in study.settings:
        quantized = quantize(model, [], setting.recipe(study.seed), seen=seen)
        assert images.labels is not None
        with torch.no_grad():
            for start in range(0, images.count, study.batch_size):
                part = range(start, min(start + study.batch_size, images.count))
                _ = (quantized(images.load(part)).argmax(1).numpy() == images.labels[list(part)]).sum()
    return time.perf_counter() - begin, time.process_time() - cpu


def through_runner(study: Study, count: int, threads: int) -> tuple[float, float]:
    """From reading the study to the last row in the store; the workers are warm. CPU seconds: of this process and the workers."""
    executor = LocalWorkers(count, threads)
    for cell in cells_of(WARM)[0] * count:
        executor.submit(cell.key, cell)
    warm = 0
    while warm < count:
        for outcome in executor.results():
            assert outcome.reason is None, outcome.reason
            warm += 1
    before = sum(_cpu(process.pid) for _, process in executor._idle)
    begin, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        store, cells = Store(Path(folder) / "s.sqlite"), cells_of(study)[0]
        store.add(study.name, cells)
        spent = _Spent(executor)
        tally = run(store, cells, spent)
        wall = time.perf_counter() - begin
        assert (tally.done, tally.failed) == (len(cells), 0), [row["reason"] for row in store.rows()]
        store.close()
    return wall, time.process_time() - cpu + spent.cpu - before


class _Spent:
    """The workers, with their CPU seconds read before they are stopped."""

    def __init__(self, workers: LocalWorkers) -> None:
        self.workers, self.slots, self.cpu = workers, workers.slots, 0.0
        self.submit, self.results = workers.submit, workers.results

    def close(self) -> None:
        self.cpu = sum(_cpu(process.pid) for _, process in self.workers._idle)
        self.workers.close()


def _cpu(pid: int) -> float:
    """User and system seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
