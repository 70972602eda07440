"""Top-1 with calibration from no data, beside 256 real images: one row a source and format, appended as soon as it is known.

    python benchmarks/datafree.py networks.py:resnet20 test5000.npz calibration1000.npz results.csv --limit 2000

`--restore` first gives folded batch norms (mean 0, variance 1) the statistics of the 256 calibration images, their scale and shift
changed so that the network computes the same: what a checkpoint with statistics would hold.

Rows that the CSV holds already are not run again. Every row keeps, image by image, whether the network was right (hexadecimal, first
image first); `lost` and `won` count the images that only the 256 real images, or only this source, got right. First layer and
classifier keep 8 plain bits. `--table results.csv` prints the differences instead.
"""

from __future__ import annotations

import argparse
import csv
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import overq
from overq.datafree import distill, observe_statistics
from overq.nn import Observations, Recipe, observe, quantize
from overq.spec import Format
from overq.study.data import Images, Preprocess, open_images, some_of
from overq.study.models import load_model

ROOT = Path(__file__).parents[1]
FORMATS = {
    f"A{bits} {name}": fmt
    for bits in (4, 3)
    for name, fmt in (
        ("plain", Format.plain(bits)),
        ("range c=4", Format(bits, 4, fraction_bits=0)),
        ("range+precision c=4", Format(bits, 4)),
    )
}
FIELDS = (
    "network", "source", "format", "seed", "images", "top1", "to_images", "lost", "won", "observe_seconds", "right",
    "overq", "torch", "numpy", "python", "commit", "command",
)  # fmt: skip
REAL = "256 images"
BATCH = 125
Source = Callable[[nn.Module, tuple[int, ...], int], Observations]


def distilled(**settings: int) -> Source:
    return lambda model, shape, seed: observe(model, distill(model, shape, seed=seed, **settings), seed=seed)


SOURCES: dict[str, Source] = {
    "statistics laplace": lambda model, shape, seed: observe_statistics(model, seed=seed),
    "distilled 64x100": distilled(count=64, steps=100),
    "statistics gauss": lambda model, shape, seed: observe_statistics(model, seed=seed, distribution="gauss"),
    "statistics laplace correlation 0.2": lambda model, shape, seed: observe_statistics(model, seed=seed, correlation=0.2),
    "statistics laplace correlation 0.4": lambda model, shape, seed: observe_statistics(model, seed=seed, correlation=0.4),
    "distilled 64x30": distilled(count=64, steps=30),
    "distilled 64x300": distilled(count=64, steps=300),
}


def restore(model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Statistics of the batches into every BatchNorm2d, the function unchanged: exact, one norm's output being what it was."""
    sums: dict[nn.BatchNorm2d, list[torch.Tensor]] = {m: [] for m in model.modules() if isinstance(m, nn.BatchNorm2d)}

    def count(norm: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        x = args[0].double()
        sums[norm].append(torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))]) * len(x))  # type: ignore[index]

    hooks = [norm.register_forward_pre_hook(count) for norm in sums]
    images = 0
    with torch.inference_mode():
        for x in batches:
            model(x)
            images += len(x)
    for hook in hooks:
        hook.remove()
    for norm, parts in sums.items():
        mean, square = sum(parts) / images
        old = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.detach().double() + old * (mean - norm.running_mean.double())
        variance = (square - mean.square()).clamp(min=0)
        norm.weight.data, norm.bias.data = (old * (variance + norm.eps).sqrt()).float(), shift.float()
        norm.running_mean, norm.running_var = mean.float(), variance.float()


def rights(model: nn.Module, images: Images) -> np.ndarray:
    assert images.labels is not None
    with torch.inference_mode():
        answers = np.concatenate([model(x).argmax(1).numpy() for x in images.batches(BATCH)])
    return answers == images.labels


def commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain", "src") else "")


def sweep(options: argparse.Namespace) -> None:
    model, preprocess = load_model(options.network), Preprocess(None, options.crop)
    images = some_of(open_images(options.images, options.labels, preprocess), options.limit)
    real = some_of(open_images(options.calibration, None, preprocess, labelled=False), 256)
    network = options.network.rpartition(":")[2] + (" restored" if options.restore else "")
    if options.restore:
        restore(model, real.batches(32))
    shape = tuple(images.load([0]).shape[1:])
    sources: dict[str, Source] = {REAL: lambda model, shape, seed: observe(model, real.batches(64), seed=seed), **SOURCES}
    facts = {
        "overq": overq.__version__, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version(),
        "commit": commit(), "command": "python " + " ".join(Path(a).name if "/" in a and i else a for i, a in enumerate(sys.argv)),
    }  # fmt: skip
    for source, observer in sources.items():
        if options.sources and source not in (REAL, *options.sources):
            continue
        rows = read(options.csv)
        have = {(r["network"], r["source"], r["format"], r["seed"], r["images"]): r for r in rows}
        key = (str(options.seed), str(images.count))
        missing = [label for label in FORMATS if label.startswith(options.formats) and (network, source, label, *key) not in have]
        if not missing:
            continue
        start = time.perf_counter()
        seen = observer(model, shape, options.seed)
        seconds = time.perf_counter() - start
        for label in missing:
            right = rights(quantize(model, seen, Recipe(FORMATS[label], seed=options.seed)), images)
            baseline = have.get((network, REAL, label, *key))
            other = unpacked(baseline["right"], images.count) if baseline else right
            row = {
                "network": network, "source": source, "format": label, "seed": options.seed, "images": images.count,
                "top1": f"{100 * right.mean():.2f}", "to_images": f"{100 * (right.mean() - other.mean()):.2f}",
                "lost": int((other & ~right).sum()), "won": int((right & ~other).sum()), "observe_seconds": f"{seconds:.1f}",
                "right": np.packbits(right).tobytes().hex(), **facts,
            }  # fmt: skip
            append(options.csv, row)
            print(network, source, label, row["top1"], row["to_images"], f"{seconds:.1f} s", flush=True)


def unpacked(text: str, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:count].astype(bool)


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: dict[str, object]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def table(path: Path) -> None:
    """Top-1 of the real images; of every other source the difference to it ± one standard error over pairs of images."""
    rows = read(path)
    for network in dict.fromkeys(r["network"] for r in rows):
        print(f"\n{network} | " + " | ".join(FORMATS) + " | seconds")
        for source in dict.fromkeys(r["source"] for r in rows if r["network"] == network):
            mine = {r["format"]: r for r in rows if (r["network"], r["source"]) == (network, source)}
            cells = []
            for label in FORMATS:
                if label not in mine:
                    cells.append("-")
                elif source == REAL:
                    cells.append(mine[label]["top1"])
                else:
                    lost, won, count = (int(mine[label][name]) for name in ("lost", "won", "images"))
                    error = 100 / count * math.sqrt(lost + won - (lost - won) ** 2 / count)
                    cells.append(f"{float(mine[label]['to_images']):+.2f} ± {error:.2f}")
            print(f"{source} | " + " | ".join(cells) + f" | {next(iter(mine.values()))['observe_seconds']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path)
    parser.add_argument("network", nargs="?", help="file.py:factory")
    parser.add_argument("images", nargs="?", type=Path)
    parser.add_argument("calibration", nargs="?", type=Path)
    parser.add_argument("csv", nargs="?", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--crop", type=int)
    parser.add_argument("--restore", action="store_true")
    parser.add_argument("--sources", nargs="*", choices=SOURCES, help="only these, and real images")
    parser.add_argument("--formats", default="A", help="only those whose name starts so")
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.table:
        table(options.table)
    elif options.csv is None:
        parser.error("give a network, images, calibration images and a results file, or --table")
    else:
        sweep(options)


if __name__ == "__main__":
    main()
