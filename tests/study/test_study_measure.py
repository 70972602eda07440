"""Measures: by hand, joined over shards, by a function of the user's own; and one paired bootstrap for all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from study_cases import DIGITS, Inline

from overq import Format, Recipe, quantize
from overq.compare import paired
from overq.errors import InputError
from overq.study import digits
from overq.study.cell import cells_of
from overq.study.data import from_tensors
from overq.study.evaluate import prepared
from overq.study.measure import MEASURES, all_scores, coverage, measured
from overq.study.plan import Setting, Study
from overq.study.run import run
from overq.study.store import Store
from overq.study.table import compared, records

OWN = """
import numpy as np
def least_margin(model, data):
    rows = [model(data.load([i]))[0].sort(descending=True).values for i in range(data.count)]
    return [float(row[0] - row[1]) for row in rows]
def wrong_count(model, data):
    return np.zeros(data.count + 1)
def fails(model, data):
    raise RuntimeError("no\\nluck")
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path}/own.py"


def test_measures_by_hand() -> None:
    x, labels = digits.images("test")
    model = prepared(digits.network())
    quantized = quantize(model, digits.images("calibration")[0], Recipe(Format(3, 2)))
    images, positions = from_tensors("d", x[:60], labels[:60]), range(5, 60, 2)
    found = measured(quantized, images, positions, 8, MEASURES, all_scores(model, images, positions, 8))
    with torch.no_grad():
        scores, exact = (torch.cat([net(x[5:60:2][i : i + 8]) for i in range(0, 28, 8)]).double().numpy() for net in (quantized, model))
    assert found.value("top1") == pytest.approx(100 * (scores.argmax(1) == labels[5:60:2].numpy()).mean())
    assert found.value("sqnr") == pytest.approx(10 * np.log10((exact**2).sum() / ((scores - exact) ** 2).sum()), rel=1e-6)
    means = coverage(found.lanes)
    assert means.coverage is not None
    assert 0 < means.coverage < 1
    assert means.expected == pytest.approx(
        np.mean([1 - (1 - c.zero_rate) ** factor for c, factor in found.lanes.values() if c.outliers]), rel=1e-9
    )
    assert found.value("sqnr") < measured(quantized, images, positions, 8, ("sqnr",), torch.from_numpy(scores).float()).value("sqnr")


def test_shards_join_to_what_one_shard_gives_and_own_measures_are_compared(tmp_path: Path, own: str) -> None:
    study = Study(
        "s", (DIGITS,), (Setting("float"), Setting("uniform", (("bits", 3),), 8)), shards=1, limit=30, samples=20,
        measures=(*MEASURES, f"{own}:least_margin"),
    )  # fmt: skip
    found = []
    for shards in (1, 3):
        store, cells = Store(tmp_path / f"{shards}.sqlite"), cells_of(replace(study, shards=shards))[0]
        store.add("s", cells)
        assert run(store, cells, Inline()).failed == 0, [row["reason"] for row in store.rows()]
        found.append(records(store.rows()))
    for one, three in zip(*found, strict=True):
        assert (one.top1, one.images, one.difference) == (three.top1, three.images, three.difference)
        assert one.own["own.py:least_margin"] == pytest.approx(three.own["own.py:least_margin"], rel=1e-4)
        assert one.sqnr == (None if one.label == "float" else pytest.approx(three.sqnr, rel=1e-3))
    ((network, p),) = compared(store.rows(), "float", "uniform:bits=3:W8", "own.py:least_margin")
    assert (network, p.images) == ("digits", 30)
    margin = [r.own["own.py:least_margin"] for r in found[1]]
    assert p.difference == pytest.approx(margin[1] - margin[0])
    assert p.low < p.difference < p.high
    with pytest.raises(InputError, match="^the study did not measure 'coverage' by image; it did "):
        compared(store.rows(), "float", "uniform:bits=3:W8", "coverage")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong_count", r"measure .*own.py:wrong_count must give one finite score for each of 3 images, not \[4\]"),
        ("fails", r"measure .*own.py:fails failed: RuntimeError: no luck"),
        ("absent", r"own.py has no factory 'absent'"),
    ],
)
def test_an_own_measure_that_fails_says_so(own: str, name: str, message: str) -> None:
    images = from_tensors("d", *(part[:5] for part in digits.images("test")))
    with pytest.raises(InputError, match=message):
        measured(digits.network(), images, range(3), 2, (f"{own}:{name}",))


def test_one_bootstrap_for_every_measure() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, (400, 1)), rng.normal(0.3, 1, (400, 1))
    p = paired(a, b, "mine.py:f")
    error = (b - a).std() / 20
    assert (p.low, p.high) == (pytest.approx(p.difference - 1.96 * error, abs=0.02), pytest.approx(p.difference + 1.96 * error, abs=0.02))
    assert p.only_a + p.only_b == 400
    exact = paired(np.array([[2.0, 0.0]] * 9), np.array([[2.0, 0.0]] * 9), "sqnr")
    assert (exact.difference, exact.low, exact.high, exact.p) == (0.0, 0.0, 0.0, 1.0)
    assert paired(np.array([[2.0, 0.0]] * 9), np.array([[2.0, 0.1]] * 9), "sqnr").difference == -np.inf
    worse = paired(np.tile([[10.0, 1.0]], (50, 1)), np.tile([[10.0, 0.1]], (50, 1)), "sqnr")
    assert worse.difference == pytest.approx(10)
    assert worse.only_b == 50
