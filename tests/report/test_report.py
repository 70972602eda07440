"""Tables and charts say what the records say."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from overq.errors import InputError
from overq.records import Accuracy, Evaluation, LayerCoverage
from overq.report import charts, render
from overq.report.tables import table, to_csv

LAYERS = (LayerCoverage("a", 0.5, 0.01, 0.8, 0.9), LayerCoverage("b", 0.6, 0.0, None, 0.6))
EVALUATION = Evaluation(
    "net", "pictures", "max", 7, 3, "array", {"overq": "1"},
    (
        Accuracy("float", 32, 32, "", 0, "", 180, 200, 1.0),
        Accuracy("plain", 3, 8, "", 0, "first", 100, 200, 1.0, format="A3 plain"),
        Accuracy("overq", 3, 8, "range", 1, "first", 120, 200, 1.0, 0.4, 0.5, 0.55, 0.005, LAYERS, format="A3 r2 c1"),
        Accuracy("overq", 3, 8, "range", 4, "first", 170, 200, 1.0, 0.8, 0.9, 0.55, 0.005, LAYERS, format="A3 r2 c4"),
        Accuracy("overq", 3, 8, "range+precision", 4, "first", 175, 200, 1.0, 0.8, 0.9, 0.55, 0.005, LAYERS, format="A3 r2+f2 c4"),
    ),
)  # fmt: skip


def test_table_shows_the_distance_to_float_and_the_coverage() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(table(EVALUATION))
    row = next(line for line in out.getvalue().splitlines() if "A3 r2 c4" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "A3 r2 c4",
        "8",
        "85.00",
        "-5.00",
        "0.800",
        "0.900",
        "0.550",
        "0.0050",
        "1.0",
    ]


def test_csv_repeats_the_facts_of_the_run() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(EVALUATION))))
    assert [row["top1"] for row in rows] == ["90", "50", "60", "85", "87.5"]
    assert {(row["model"], row["seed"], row["overq_version"]) for row in rows} == {("net", "3", "1")}


def test_charts_draw_every_result_and_start_each_line_at_plain() -> None:
    by_bits, by_cascade, coverage = charts.evaluation(EVALUATION)["concat"]
    assert [row["top1"] for row in by_bits["data"]["values"]] == [50, 60, 85, 87.5]
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in by_cascade["data"]["values"]:
        lines.setdefault(row["series"], []).append((row["cascade"], row["top1"]))
    assert lines == {"OverQ A3 r2": [(0, 50), (1, 60), (4, 85)], "OverQ A3 r2+f2": [(0, 50), (4, 87.5)]}
    assert coverage["layer"][1]["data"]["values"] == [{"coverage": 0.8, "expected": 0.9}]  # a layer without outliers has no point


def test_the_picture_of_an_evaluation_is_drawn_with_every_panel() -> None:
    svg = render.picture(charts.evaluation(EVALUATION), "svg").decode()
    for words in ("net on pictures, calibration max", "net, W8, 200 images", "OverQ A3 r2+f2 c4", "cascade factor c (0 is plain)", "float"):
        assert words in svg
    assert svg.count('aria-roledescription="line mark container"') >= 2
    assert render.picture(charts.evaluation(EVALUATION), "pdf").startswith(b"%PDF")
    with pytest.raises(InputError, match="--plot a.jpg: the name must end in one of .png, .svg, .pdf"):
        render.kind_of(Path("a.jpg"), "--plot")


def test_a_notebook_shows_a_row_for_each_setting_and_names_as_text() -> None:
    shown = replace(EVALUATION, model="<script>alert(1)</script>")._repr_html_()
    assert shown.count("<tr>") == 1 + len(EVALUATION.results)
    assert "<td>85.00</td>" in shown
    assert "&lt;script&gt;" in shown
    assert "<script" not in shown


def test_a_table_of_pandas_has_numbers_as_numbers() -> None:
    pytest.importorskip("pandas")
    table = EVALUATION.to_pandas()
    assert table["top1"].tolist() == [90, 50, 60, 85, 87.5]
    assert table["difference"].tolist() == [0, -40, -30, -5, -2.5]
