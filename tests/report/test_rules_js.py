"""The explorer's rules give every golden vector, lane by lane: in QuickJS, which is always there, and in the browser's own engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import quickjs
from report_cases import chromium

import overq.report
from overq.kernels.scale import factors
from overq.spec import Format
from overq.spec.counts import count

GOLDEN = sorted(path for path in (Path(__file__).parents[1] / "golden").glob("*.json"))
RULES = (Path(overq.report.__file__).parent / "web" / "rules.js").read_text(encoding="utf-8")
CHECK = """
function wrong(cases) {
  const found = [];
  for (const { format, rows } of cases) for (const row of rows) {
    const lanes = OverQ.encode(row.t, format);
    const got = {
      digits: lanes.map((lane) => lane.digit), states: lanes.map((lane) => lane.state),
      effective: OverQ.effective(lanes, format), dot: OverQ.dot(lanes, row.weights, format),
    };
    for (const [name, value] of Object.entries(got)) {
      if (JSON.stringify(value) !== JSON.stringify(row[name])) found.push([name, row.t, value, row[name]]);
    }
  }
  return JSON.stringify(found.slice(0, 3));
}
"""


@pytest.fixture(scope="module")
def engine() -> quickjs.Context:
    context = quickjs.Context()
    context.eval(RULES + CHECK)
    return context


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_every_golden_vector(path: Path, engine: quickjs.Context) -> None:
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    assert sum(len(case["rows"]) for case in cases) > 0
    assert json.loads(engine.eval(f"wrong({json.dumps(cases)})")) == []


def test_a_wrong_rule_is_noticed() -> None:
    context = quickjs.Context()
    context.eval(RULES.replace("lane < zero", "lane < zero - 1") + CHECK)
    cases = [case for path in GOLDEN for case in json.loads(path.read_text(encoding="utf-8"))["cases"]]
    assert json.loads(context.eval(f"wrong({json.dumps(cases)})")) != []


def test_counts_state_bits_and_the_way_in_are_the_specs(engine: quickjs.Context) -> None:
    for path in GOLDEN:
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
            form = Format.from_json(case["format"])
            assert engine.eval(f"OverQ.stateBits({json.dumps(case['format'])})") == form.state_bits
            for row in case["rows"]:
                got = json.loads(engine.eval(f"JSON.stringify(OverQ.counts({row['t']}, {json.dumps(case['format'])}))"))
                assert got == count(row["t"], form).__dict__
    form = Format(4, 4)
    r, _ = factors(0.3, form)
    for x in (0.0, 0.1, 0.15, 2.7, 1e4, -0.3):
        assert engine.eval(f"OverQ.scaled({x}, 0.3, {json.dumps(form.to_json())})") == int(np.floor(np.float32(x) * r))


def test_in_the_browser(tmp_path: Path) -> None:
    (tmp_path / "rules.html").write_text(f"<!DOCTYPE html><script>{RULES}{CHECK}</script>", encoding="utf-8")
    cases = [case for path in GOLDEN for case in json.loads(path.read_text(encoding="utf-8"))["cases"]]
    with chromium() as (page, said):
        page.goto((tmp_path / "rules.html").as_uri())
        assert page.evaluate("cases => wrong(cases)", cases) == "[]"
        assert said == []
