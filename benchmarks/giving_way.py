"""How far giving way can raise the share of outliers served, and what it is worth: the table of docs/format.md.

    python benchmarks/giving_way.py

A few images of the data folder through each float network, the inputs of eight of its convolutions. For each of them and each rule the
step with the least error of the convolution's output, from a grid. Rules: `Format.evict` 0 to 3; "gain", any level that is at most what is
clipped of the outlier; "any", the first lane behind the outlier whatever it holds. Which lane gives way is decided here once more, for
whole arrays; a test holds rules 1 to 3 against the definition. Writes benchmarks/results/giving_way.csv.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from overq import kernels
from overq.kernels.scale import factors
from overq.output import write
from overq.spec import Format
from overq.study.data import Batches, Preprocess, open_images, some_of
from overq.study.models import load_model
from overq.study.version import commit, package
from overq.text import csv_text

DATA = Path(__file__).parents[1] / "../shared/data"
RESULTS = Path(__file__).parent / "results" / "giving_way.csv"
NETWORKS = {"resnet20": 0, "resnet44": 0, "squeezenet": 224, "mobilenet_v2": 224}  # name -> crop, 0 for CIFAR-10
RULES = ("0", "1", "2", "3", "gain", "any")
STEPS = (0.15, 0.2, 0.26, 0.34, 0.44, 0.57)  # in units of the input's root mean square
LAYERS = 8


@dataclass(frozen=True)
class Case:
    """One convolution: its input [positions, lanes], its output without bias [N, C, H, W], and how to get one from the other."""

    layer: torch.nn.Conv2d
    x: np.ndarray
    shape: torch.Size
    out: torch.Tensor

    def output(self, x: np.ndarray) -> torch.Tensor:
        m = self.layer
        y = torch.from_numpy(x).reshape(self.shape).permute(0, 3, 1, 2)
        return torch.nn.functional.conv2d(y, m.weight, None, m.stride, m.padding, m.dilation, m.groups)


@dataclass(frozen=True)
class Result:
    """alone: outliers behind which no other one stands, nor the tile's edge: more than these no rule can serve."""

    decibels: float
    outliers: int
    served: int
    alone: int
    gone: float


def levels(t: np.ndarray, fmt: Format) -> np.ndarray:
    return np.asarray((t + (1 << fmt.fraction_bits)) >> (fmt.fraction_bits + 1))


def outliers(t: np.ndarray, fmt: Format) -> np.ndarray:
    n = levels(t, fmt)
    return np.asarray((n > fmt.digit_max) | (n < fmt.digit_min))


def behind(values: np.ndarray, d: int, fill: object) -> np.ndarray:
    """What stands d lanes behind each lane of [positions, lanes]."""
    out = np.full_like(values, fill)
    out[:, :-d] = values[:, d:]
    return out


def give_way(t: np.ndarray, fmt: Format, rule: str) -> np.ndarray:
    """t [positions, lanes] with 0 where a lane gives way."""
    n, out = levels(t, fmt), outliers(t, fmt)
    clipped = np.where(out, np.abs(n - np.clip(n, fmt.digit_min, fmt.digit_max)), 0)
    most = np.full_like(n, 1 << 20) if rule == "any" else clipped if rule == "gain" else np.minimum(clipped, int(rule))
    going, taken = out.copy(), np.zeros_like(n)  # lanes behind are still looked at; which of them gives way
    for d in range(1, fmt.cascade + 1):
        level = behind(n, d, 1)
        taken[going & (level == 0)] = 0  # a zero: it can serve the outlier
        going &= (level != 0) & ~behind(out, d, True)
        taken[going & (taken == 0) & (np.abs(level) <= most)] = d
        if d >= t.shape[1] - 1:
            break
    result = t.copy()
    for d in range(1, int(taken.max(initial=0)) + 1):
        rows, lanes = np.nonzero(taken == d)
        result[rows, lanes + d] = 0
    return result


def cases(model: torch.nn.Module, x: torch.Tensor) -> list[Case]:
    caught: list[Case] = []

    def catch(layer: torch.nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        assert isinstance(layer, torch.nn.Conv2d)
        a = given[0].permute(0, 2, 3, 1).contiguous()
        bias = 0 if layer.bias is None else layer.bias.view(1, -1, 1, 1)
        caught.append(Case(layer, a.reshape(-1, a.shape[-1]).numpy(), a.shape, out - bias))

    hooks = [m.register_forward_hook(catch) for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.in_channels > 3]
    model(x)
    for hook in hooks:
        hook.remove()
    every = max(1, len(caught) // LAYERS)
    return caught[every // 2 :: every]


def tried(case: Case, cascade: int, rule: str, alpha: float) -> Result:
    array = kernels.get("array")
    fmt = Format(4, cascade, 3, 3, "largest", bool((case.x < 0).any()))
    step = float(np.sqrt((case.x**2).mean())) * alpha
    t = array.to_fixed(case.x, step, fmt)
    given = give_way(t, fmt, rule)
    E = array.effective(*kernels.get("auto").encode(given, fmt), fmt)
    error = case.output(E.astype(np.float32) * factors(step, fmt)[1]) - case.out
    out = outliers(t, fmt)
    return Result(
        decibels=10 * float(torch.log10((case.out**2).mean() / (error**2).mean())),
        outliers=int(out.sum()),
        served=kernels.get("auto").counts(given, fmt).served,
        alone=int((out & ~behind(out, 1, True)).sum()),
        gone=float((given != t).mean()),
    )


def rows(name: str, crop: int) -> Iterator[dict[str, object]]:
    folder = DATA / ("imagenet/calibration" if crop else "cifar10/calibration1000.npz")
    pool = some_of(open_images(folder, None, Preprocess(None, crop or None), labelled=False), 3 if crop else 12)
    model = load_model(f"{DATA / 'networks.py'}:{name}")
    found = cases(model, torch.cat(list(Batches(pool, 12))))
    for cascade in (4, 8):
        for rule in RULES:
            best = [max((tried(case, cascade, rule, a) for a in STEPS), key=lambda r: r.decibels) for case in found]
            count = sum(r.outliers for r in best)
            yield {
                "network": name,
                "layers": len(best),
                "cascade": cascade,
                "rule": rule,
                "decibels": round(sum(r.decibels for r in best) / len(best), 2),
                "coverage": round(sum(r.served for r in best) / count, 3),
                "at_most": round(sum(r.alone for r in best) / count, 3),
                "gone_percent": round(100 * sum(r.gone for r in best) / len(best), 3),
                "commit": commit(package()),
            }


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    found = [row for name, crop in NETWORKS.items() for row in rows(name, crop)]
    write(RESULTS, csv_text(list(found[0]), found))


if __name__ == "__main__":
    main()
