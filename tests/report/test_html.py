"""The page is one file, holds what the records hold, and nothing in them acts."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_cases import CONTENTS, HOSTILE, RECORDS, command, make_store

from overq.errors import InputError
from overq.report import render, vega
from overq.report.charts import files
from overq.report.contents import Missing
from overq.report.costs import read_arrays
from overq.report.html import LAYER_ROOM, page, safe_json
from overq.report.records import to_csv


def data_of(text: str) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]


@pytest.fixture(scope="module")
def text() -> str:
    return page(CONTENTS)


def test_it_holds_the_records_the_layers_and_what_is_missing(text: str) -> None:
    data = data_of(text)
    assert [row["label"] for row in data["settings"]] == [r.label for r in RECORDS]
    assert data["settings"][4]["top1"] == 89.5
    assert data["layers"][0]["rows"][0] == ["conv1", 0.5, 0.02, 0.9, 0.94, "A4 r3+f3 c4", 0.2, 21.0]
    assert data["inputs"][0]["layers"][0]["counts"] == [900, 60, 20, 10, 5, 1]
    assert data["missing"] == [["net", "olive:bits=4:W8", "failed", "out of memory", 2]]
    assert data["left_out"] == ["an older version"]
    assert data["groups"][0]["headline"].startswith("Take OverQ A4 c4")
    assert [(chart["measure"], chart["cost"]) for chart in data["charts"]] == [
        (measure, cost) for measure in ("top1", "sqnr") for cost in ("bits", "multiplier", "area")
    ]


def test_it_is_one_file_that_may_load_nothing(text: str) -> None:
    head = text[: text.index("<script")]
    assert all(rule in head for rule in ("default-src 'none'", "form-action 'none'", "base-uri 'none'"))
    assert not re.search(r"<(?:link|iframe|object|embed|base|img)\b", head)
    assert re.findall(r'\b(?:src|href)="(?!#)[^"]*"', re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)) == []
    assert len(text.encode()) < 3_000_000


def test_hostile_names_end_no_element(text: str) -> None:
    records = tuple(replace(r, network=HOSTILE, label=r.label if r.method == "float" else HOSTILE, own={HOSTILE: 1.0}) for r in RECORDS)
    hostile = page(replace(CONTENTS, title=HOSTILE, records=records, missing=(Missing(HOSTILE, HOSTILE, "failed", HOSTILE),)))
    assert hostile.lower().count("</script") == text.lower().count("</script")
    assert "<img" not in hostile.replace(text, "")[: hostile.index("<script")]
    assert data_of(hostile)["title"] == HOSTILE


def test_json_for_a_script_element_has_no_sign_that_ends_it() -> None:
    made = safe_json({"a": "</script><!--&\u2028", "b": float("nan"), "c": 1 / 3})
    assert not set("<>&\u2028") & set(made)
    assert json.loads(made) == {"a": "</script><!--&\u2028", "b": None, "c": 0.333333}


def test_layers_beyond_their_room_are_left_out_and_named() -> None:
    many = tuple(("net", f"overq:bits=4,cascade={i}:W8", CONTENTS.layers[0][2] * 500) for i in range(40))
    data = data_of(page(replace(CONTENTS, layers=many)))
    assert len(json.dumps(data["layers"])) < LAYER_ROOM * 1.2
    assert 0 < len(data["layers"]) < 40
    assert data["left_out"][-1].startswith(f"layers of {40 - len(data['layers'])} settings")


def test_pictures_are_of_the_same_specifications() -> None:
    made = files(RECORDS[:4], ("svg",))
    assert sorted(made) == ["net-W8-top-1-bits.svg", "net-W8-top-1-multiplier.svg"]
    picture = made["net-W8-top-1-bits.svg"].decode()
    assert "<svg" in picture
    assert all(f">{name}<" in picture for name in ("A3", "A4", "A6", "float")), "the front's settings are named"


def test_the_front_is_what_no_other_beats() -> None:
    """The specification's own front, told by the names it writes: A6 is no better than OverQ's A4 c4."""
    drawn = files(RECORDS, ("svg",))["net-W8-top-1-bits.svg"].decode()
    names = re.findall(r">(A\d[^<]*)<", drawn)
    assert sorted(names) == ["A3", "A4", "A4 c4"]


@pytest.mark.parametrize("cells", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_store_is_reported_in_time(cells: int, tmp_path: Path, capsys, monkeypatch) -> None:
    store = make_store(tmp_path / "s.sqlite", cells, layers=20)
    begin = time.process_time()
    code, out, err = command(capsys, monkeypatch, "report", store, "--out", tmp_path / "r.html")
    assert (code, err) == (0, "")
    assert time.process_time() - begin < 10
    made = (tmp_path / "r.html").read_text(encoding="utf-8")
    data = data_of(made)
    assert len(made.encode()) < 3_000_000
    assert len(data["settings"]) == cells + 1
    assert data["missing"][0][1:] == ["olive:bits=4:W8", "failed", HOSTILE, 1]
    assert [each["name"] for each in data["inputs"][0]["layers"]] == [f"blocks.{i}.conv" for i in range(20)]
    assert data["layers"][0]["rows"][3][5:] == ["A4 r3+f3 c4", 0.25, 23.0]
    assert out.startswith("report: ")


def test_a_table_of_records_makes_a_report_too(tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "r.csv").write_text(to_csv(RECORDS), encoding="utf-8")
    code, _, err = command(capsys, monkeypatch, "report", tmp_path / "r.csv", "--out", tmp_path / "r.html", "--pictures", tmp_path / "p")
    assert (code, err) == (0, "")
    data = data_of((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert data["groups"][0]["headline"].startswith("Take OverQ A4 c4")
    assert any("layers" in line for line in data["left_out"])
    assert (tmp_path / "p" / "net-W8-top-1-bits.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "{}", '{"results": []}'], ids=["empty", "foreign", "object", "no-results"])
def test_what_holds_no_results_is_refused_in_one_line(content: str, tmp_path: Path, capsys, monkeypatch) -> None:
    for name in ("x.csv", "x.json", "x.sqlite"):
        (tmp_path / name).write_text(content, encoding="utf-8")
        code, _, err = command(capsys, monkeypatch, "report", tmp_path / name, "--out", tmp_path / "r.html")
        assert code == 2
        assert err.count("\n") == 1
        assert name in err
    assert not (tmp_path / "r.html").exists()


def test_without_its_extra_it_says_what_to_install(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    (tmp_path / "r.csv").write_text(to_csv(RECORDS), encoding="utf-8")
    code, _, err = command(capsys, monkeypatch, "report", tmp_path / "r.csv", "--out", tmp_path / "r.html")
    assert code == 2
    assert "pip install 'overq[report]'" in err
    code, _, err = command(capsys, monkeypatch, "evaluate", "--report", tmp_path / "r.html")
    assert "pip install 'overq[report]'" in err
    code, _, err = command(capsys, monkeypatch, "evaluate", "--plot", tmp_path / "r.png")
    assert (code, err.count("\n"), "pip install 'overq[report]'" in err) == (2, 1, True), "before any work"


def test_areas_of_arrays_are_read_for_one_size(tmp_path: Path) -> None:
    path = tmp_path / "arrays.csv"
    path.write_text("array,size,all\nA4 plain,16,100\nA4 plain,64,1600\n", encoding="utf-8")
    assert read_arrays(path, 16).get("A4 plain", 8) == 100
    assert read_arrays(path, 16).get("A4 plain", 4) is None, "the table's arrays have 8-bit weights"
    with pytest.raises(InputError, match=r"no array of 32 rows; there are 16, 64"):
        read_arrays(path, 32)


def test_every_specification_draws() -> None:
    for spec in (
        vega.layers(), vega.theory(), vega.histogram(), vega.cycles(), vega.against_cascade(), vega.against("x", "y", ["a"]),
    ):  # fmt: skip
        rows = {
            "layers": [{"name": "a", "kind": "zeros", "share": 0.5}],
            "covered": [{"name": "a", "coverage": 0.5, "expected": 0.6}],
            "bins": [{"from": 0, "to": 1, "count": 5}],
            "marks": [{"at": 0.5, "text": "one digit"}],
            "cycles": [{"layer": "a", "cycles": 5, "utilization": 0.5}],
            "cascades": [{"cascade": 1, "top1": 90, "series": "a"}, {"cascade": 2, "top1": 91, "series": "a"}],
            "lines": [{"network": "n", "x": 1, "y": 2, "series": "a"}],
        }
        svg = render.picture(render.still(spec, rows), "svg").decode()
        assert "<path" in svg
