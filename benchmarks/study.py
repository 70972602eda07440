"""What the study runner costs, what workers gain, and an OverQ cell beside the float network.

python benchmarks/study.py --data ../shared/data runner     the runner against the bare evaluation, ResNet-20, one worker
python benchmarks/study.py --data ../shared/data workers    two workers with one thread each against one with two
python benchmarks/study.py --data ../shared/data resnet50   OverQ A4 against float, 64 images, two threads
python benchmarks/study.py --data ../shared/data ray        two cells at once as Ray's tasks against two local workers
python benchmarks/study.py store                            claims and results a second, as many cells under way as 512 workers have
python benchmarks/study.py paper                            no measurement: 20 networks, 200 settings, 50,000 images on many workers

Each figure is the median of interleaved runs, wall and CPU seconds, with the machine's load beside it: on a machine that
others use, trust the ratio of CPU seconds more.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # as the command line does

import numpy as np
import torch

from overq.methods import Cost
from overq.nn import Recipe, observe, quantize
from overq.spec import Format
from overq.study import digits
from overq.study.cell import Cell, cells_of
from overq.study.data import Preprocess, open_images, some_of
from overq.study.measure import Measured
from overq.study.models import load_model
from overq.study.plan import Network, Setting, Study
from overq.study.ray_workers import RayWorkers
from overq.study.resources import Resources
from overq.study.run import run
from overq.study.store import Store
from overq.study.workers import Executor, LocalWorkers

SETTINGS = tuple(Setting(name, (("bits", 4),), 8) for name in ("uniform", "overq", "sparq", "olive"))
WARM = Study("warm", (Network("digits", "overq.study.digits:network", "digits", "digits"),), (Setting("overq", weight_bits=8),), limit=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("runner", "workers", "resnet50", "ray", "store", "paper"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with networks.py")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=int, default=1000, help="images of ResNet-20")
    options = parser.parse_args()
    {"runner": runner, "workers": workers, "resnet50": resnet50, "ray": ray, "store": store, "paper": paper}[options.what](options)


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


def ray(options: argparse.Namespace) -> None:
    """Wall seconds only: Ray's processes are nobody's children here. What its end takes is the same for any study, and said apart."""
    study = resnet20(options, shards=4)
    ratios = []
    for i in range(options.repeats):
        (local, _), (rays, end) = (
            warm_wall(study, made) for made in (LocalWorkers(2, 2), RayWorkers({"digits": Resources(), "resnet20": Resources()}, 2))
        )
        ratios.append(rays / local)
        load = os.getloadavg()[0]
        print(f"{i}: local {local:.2f} s, Ray {rays:.2f} s, ratio {ratios[-1]:.3f}; Ray's end {end:.2f} s; load {load:.1f}", flush=True)
    print(f"median ratio {median(ratios):.3f}")


def warm_wall(study: Study, executor: Executor) -> tuple[float, float]:
    """Seconds from the first claim to the last row, the workers warm, and from there until the workers have ended."""
    for cell in [replace(cell, shard=i, shards=2) for i, cell in enumerate(cells_of(WARM)[0] * 2)]:
        executor.submit(cell.key, cell)
    warm = 0
    while warm < 2:
        for outcome in executor.results():
            assert outcome.reason is None, outcome.reason
            warm += 1
    with tempfile.TemporaryDirectory() as folder:
        store, cells = Store(Path(folder) / "s.sqlite"), cells_of(study)[0]
        store.add(study.name, cells)
        rows = [time.perf_counter()]
        tally = run(store, cells, executor, lambda tally: rows.append(time.perf_counter()))
        end = time.perf_counter()
        assert (tally.done, tally.failed) == (len(cells), 0), [row["reason"] for row in store.rows()]
        store.close()
    return rows[-1] - rows[0], end - rows[-1]


def store(options: argparse.Namespace) -> None:
    """Cells in and out a second, for batches of several sizes: what came in while the last was written makes the next batch."""
    network, setting = WARM.networks[0], Setting("overq", (("bits", 3),), 8)
    cells = [
        Cell("s", replace(network, name=f"n{i // 10}"), setting, i % 10, "c", (), shards=10) for i in range(20_000)
    ]  # fmt: skip
    result = Measured({"top1": np.ones((1250, 1)), "sqnr": np.ones((1250, 2))}), Cost(4.0, 2.0, 4.0, 8), 0.5, {"code": "x"}
    keys = {cell.key for cell in cells}
    for size in (1, 16, 64, 128):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            made = Store(Path(folder) / "s.sqlite")
            begin = time.perf_counter()
            made.add("s", cells)
            added = len(cells) / (time.perf_counter() - begin)
            with made.alive():
                held, done, begin, cpu = made.claim(keys, 512), 0, time.perf_counter(), time.process_time()
                while done < max(400, 40 * size):
                    batch, held = held[:size], held[size:]
                    done += made.finish(dict.fromkeys(batch, result))
                    held += made.claim(keys, size)
                rate, of_cpu = done / (time.perf_counter() - begin), done / (time.process_time() - cpu)
            made.close()
        load = os.getloadavg()[0]
        print(
            f"batches of {size}: {rate:.0f} cells/s in and out, {of_cpu:.0f} a CPU second; {added:.0f}/s added; load {load:.1f}", flush=True
        )


MEASURED = Path(__file__).parents[1] / "studies" / "results"
NETWORKS, SETTINGS_EACH, IMAGES, SHARDS, CALIBRATED = 20, 200, 50_000, 40, 256


def paper(options: argparse.Namespace) -> None:
    """From the seconds in committed records: every network and setting costs an image what it did there, one core to a worker.

    The records' networks and settings are repeated until there are enough of them. A worker that meets a network first observes
    CALIBRATED images, at twice what the float network takes for them. The head takes 1/rate of a second for each cell.
    """
    measured: dict[str, list[float]] = {}
    observing: dict[str, float] = {}
    for name in ("cifar10.csv", "imagenet.csv"):
        with (MEASURED / name).open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                each = float(row["seconds"]) / int(row["images"])
                measured.setdefault(row["network"], []).append(each)
                if row["method"] == "float":
                    observing[row["network"]] = 2 * CALIBRATED * each
    cells: list[tuple[int, float, float]] = []
    for number, name in enumerate(islice(cycle(measured), NETWORKS)):
        for each in islice(cycle(measured[name]), SETTINGS_EACH):
            cells += [(number, each * IMAGES / SHARDS, observing[name])] * SHARDS
    work = sum(seconds for _, seconds, _ in cells)
    mean = work / len(cells)
    print(f"{len(cells):,} cells of {IMAGES // SHARDS} images, {mean:.0f} s each on average, {work / 86400 / 365:.2f} core years")
    for rate in (25, 500):
        for workers in (8, 64, 512, 4096):
            wall = simulated(cells, workers, rate)
            hours, used, busy = wall / 3600, work / wall / workers, len(cells) / rate / wall
            print(f"head {rate} cells/s, {workers} workers: {hours:.1f} h; workers busy {used:.1%}, head {busy:.2%} of the time")
        print(f"head {rate} cells/s is the limit from {rate * mean:,.0f} workers on")


def simulated(cells: Iterable[tuple[int, float, float]], workers: int, rate: float) -> float:
    """Seconds until the last cell: (network, seconds, seconds of observing the network) in order, each to the worker that is free first."""
    free, seen, head = [(0.0, i) for i in range(workers)], [-1] * workers, 0.0
    last = 0.0
    for network, seconds, observing in cells:
        now, i = heapq.heappop(free)
        head = max(now, head) + 1 / rate
        now = head + seconds + (observing if seen[i] != network else 0.0)
        seen[i] = network
        heapq.heappush(free, (now, i))
        last = max(last, now)
    return last


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
