"""Every measured figure in the README's words stands in a record: what its lists say is computed here again."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = re.compile(r"\([^()]*\.md[^()]*\)|\b[A-Za-z]+-?[A-Za-z]*\d+\w*|\bc = \d+|\d+ × \d+ array")  # links, ResNet-50, A4W8, the array
EVERYTHING = "cascade=8,policy=largest,evict=2,reorder=true,equalize=0.5,bias_correction=true:W8"

A4, A3, NVFP4 = "recipe:file=language-a4:W8", "recipe:file=language-a3-a4:W8", "nvfp4:edges=false,shift=true,equalize=balanced:W8"
ROTATED = "uniform:bits=5,dynamic=max,rotate=true,edges=false,shift=true:W8"


@cache
def records(name: str) -> list[dict[str, str]]:
    folder = ROOT / ("benchmarks/results" if name.startswith(("area", "cycles")) else "studies/results")
    with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def served(label: str) -> str:
    """Percent of outliers, in the mean over the six networks."""
    found = [float(r["coverage"]) for name in ("imagenet", "cifar10") for r in records(name) if r["label"] == label]
    assert len(found) == 6
    return f"{100 * sum(found) / 6:.0f}"


def perplexity(label: str, study: str = "language-by-layer") -> str:
    """Over float's."""
    found = {r["label"]: float(r["perplexity"]) for r in records(study)}
    return f"{found[label] / found['float']:.2f}"


def bits(label: str) -> str:
    return f"{float(next(r['bits'] for r in records('language-by-layer') if r['label'] == label)):.1f}"


def array(name: str) -> str:
    """Percent over plain A4: 64 × 64, sums as wide as needed, Nangate45."""
    (row,) = (r for r in records("area_arrays") if (r["array"], r["size"]) == (name, "64") and r["library"].startswith("Nangate"))
    return row["over_A4_plain_percent"]


def cycles() -> str:
    (count,) = {int(r["cycles"]) for r in records("cycles_networks") if (r["network"], r["rows"]) == ("resnet50", "128")}
    return f"{count:,}"


def simulated() -> str:
    """A network of ResNet-50's shape, one thread, contiguous: OverQ's time over float's."""
    measured = json.loads((ROOT / "benchmarks/results/kernels-cpu.json").read_text(encoding="utf-8"))["networks"]
    times = next(n["ms"] for n in measured if (n["layout"], n["threads"]) == ("contiguous_format", 1))
    return f"{max(times['range'], times['both']) / times['float']:.2f}"


FIGURES = {
    "Over 90 % of outliers served?": lambda: ["90", served("recipe:bits=4,cascade=4:W8"), served(f"recipe:bits=4,{EVERYTHING}")],
    "Better than plain at the same stored bits?": list,
    "Five points over plain at 4 bits on ImageNet?": lambda: ["4", records("imagenet")[0]["images"]],
    "Language models?": lambda: [
        bits(A4),
        perplexity(A4),
        perplexity(NVFP4),
        bits(NVFP4),
        perplexity(A3),
        bits(A3),
        perplexity(ROTATED, "language"),
        perplexity("recipe:fold_rotation=true,file=language-folded-by-layer:W8"),
    ],
    "Area.": lambda: [array(f"A4 {name}") for name in ("r1+f1 c4", "r2+f1 c4", "r3+f3 c4")] + [array("A5 plain")],
    "Time.": lambda: [cycles(), simulated()],
}


def bullets() -> Iterator[tuple[str, str]]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for bullet in re.findall(r"^- (\*\*.*?)(?=^- |\n\n|\Z)", text, flags=re.MULTILINE | re.DOTALL):
        title = re.match(r"\*\*(.*?)\*\*", bullet)
        assert title
        yield title[1], " ".join(bullet.split())


@pytest.mark.parametrize(("title", "words"), bullets(), ids=lambda s: s[:20])
def test_figures_in_words_are_those_of_records(title: str, words: str) -> None:
    found = re.findall(r"\d[\d,]*(?:\.\d+)?", NAMES.sub("", words))
    assert [figure.rstrip(",") for figure in found] == FIGURES[title]()
