"""The front, the verdict, the picture and the CSV of a study, from results made by hand."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
import report_cases

from overq.errors import InputError
from overq.records import Record
from overq.report import charts, render
from overq.report.costs import read_areas, read_cycles, with_energies
from overq.report.records import read_csv, to_csv
from overq.report.study import front, verdict


def result(label: str, top1: float, bits: float, *, network: str = "n", width: int = 8, area: float | None = None) -> Record:
    method = label.partition(":")[0]
    return Record(
        "s", network, label, method, 200, round(2 * top1), top1, top1 - 90, top1 - 92, top1 - 89, bits, 0.0, bits, 8 * bits, width,
        area, None, 7, 1.0, "0.1.0", "c0de", "abc", "2", "3",
    )  # fmt: skip


FLOAT = result("float", 90.0, 32, width=32)
RESULTS = [
    FLOAT,
    result("uniform:bits=3", 70.0, 3, area=30),
    result("uniform:bits=4", 80.0, 4, area=50),
    result("uniform:bits=6", 79.0, 6, area=60),
    result("overq:bits=3", 85.0, 5, area=40),
    result("sparq:bits=4", 86.0, 7.5),
]
QUANTIZED = RESULTS[1:]


def test_the_front_leaves_out_what_another_beats() -> None:
    assert [r.label for r in front(QUANTIZED)] == ["uniform:bits=3", "uniform:bits=4", "overq:bits=3", "sparq:bits=4"]
    tie = [result("a", 80.0, 4), result("b", 80.0, 4), result("c", 80.0, 3)]
    assert [r.label for r in front(tie)] == ["c"], "as accurate for more is not on the front"


def test_the_verdict_says_where_overq_stands() -> None:
    assert verdict(QUANTIZED) == "OverQ is on the front: overq:bits=3"
    beaten = [*QUANTIZED, result("pwlq:bits=3", 87.0, 4)]
    assert (
        " ".join(verdict(beaten).split())
        == "OverQ is NOT on the front: its best, overq:bits=3, gives 85.00, pwlq:bits=3 gives 87.00 for no more"
    )
    assert verdict([*beaten, result("overq_recipe:bits=3", 88.0, 5)]).endswith("on the front: overq_recipe:bits=3")
    assert verdict(QUANTIZED[:3]) == "OverQ was not run"


def marks(panel: dict, kind: str) -> list[dict]:
    """The layers of a panel that draw so."""
    return [layer for layer in panel["layer"] if layer["mark"]["type"] == kind]


def test_the_picture_has_the_points_the_front_the_bars_and_the_verdict() -> None:
    (panel,) = charts.study(RESULTS, "bits")["concat"]
    rows = panel["data"]["values"]
    assert [(row["family"], row["bits"], row["top1"], row["base"]) for row in rows] == [
        ("plain", 3, 70, 90), ("plain", 4, 80, 90), ("plain", 6, 79, 90), ("OverQ", 5, 85, 90), ("SPARQ", 7.5, 86, 90),
    ]  # fmt: skip
    assert panel["title"] == {
        "text": "n, W8, 200 images", "subtitle": ["OverQ is on the front: overq:bits=3"], "anchor": "start", "offset": 14,
    }  # fmt: skip
    assert [marks(panel, kind) != [] for kind in ("line", "point", "rule", "text")] == [True] * 4
    svg = render.picture(charts.study(RESULTS, "bits", ["Records of code c0de"]), "svg").decode()
    assert all(words in svg for words in ("Records of code c0de", "SPARQ", "OverQ is on the front", "float", "Top-1 against bits stored"))
    assert svg.count('aria-roledescription="point"') == len(rows)


def test_the_front_of_a_picture_is_the_front() -> None:
    """The staircase is found by Vega; its corners, read from the drawing, are those that `front` finds."""
    svg = render.picture(charts.study(RESULTS, "bits"), "svg").decode()
    named = re.findall(r'font-weight="bold"[^>]*>([^<]+)</text>', svg)
    assert [name for name in named if ":" in name] == [r.label for r in front(QUANTIZED)]


def test_a_panel_for_each_network_and_weight_width_and_only_known_costs() -> None:
    more = [*RESULTS, result("uniform:bits=3", 60.0, 3, width=4, area=20), result("uniform:bits=3", 50.0, 3, network="m", area=20)]
    panels = charts.study(more, "area")["concat"]
    assert [panel["title"]["text"] for panel in panels] == ["m, W8, 200 images", "n, W4, 200 images", "n, W8, 200 images"]
    assert "SPARQ" not in marks(panels[2], "point")[0]["encoding"]["color"]["scale"]["domain"]
    assert marks(panels[0], "point")[0]["encoding"]["x"]["title"] == "area of one processing element"
    assert panels[1]["title"]["subtitle"] == ["OverQ was not run"]
    first = panels[0]["transform"][0]["filter"]
    assert first.startswith('datum.network === "m" && datum.weight_bits === 8'), "each panel has its own network"


def test_the_csv_has_a_line_for_each_result_and_nothing_where_a_cost_is_unknown() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(RESULTS))))
    assert [row["label"] for row in rows] == [r.label for r in RESULTS]
    assert [row["area"] for row in rows] == ["", "30", "50", "60", "40", ""]
    assert {(row["seed"], row["code"], row["commit"]) for row in rows} == {("7", "c0de", "abc")}


def test_areas_of_one_library_and_of_equal_sums_are_joined_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "element,activation_bits,weight_bits,sums,area,library\nA4 plain,4,8,equal,10,x\nA4 plain,4,8,own,5,x\nA5 plain,5,8,equal,13,x\n"
        "plain,5,8,beside A4,12,x\nA4 r3+f3 c4,4,8,equal,11,x\nA4 plain,4,8,equal,99,y\nSPARQ,4,8,beside A4,14,x\n"
    )
    table = read_areas(path)
    assert (table.source, table.get("A4 plain", 8), table.get("A5 plain", 8)) == ("x", 10, 12)
    assert (table.get("A4 r3+f3 c4", 8), table.get("A4 sparq", 8), table.get("A4 plain", 4)) == (11, 14, None)


def test_cycles_belong_to_their_network(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("network,format,cycles\nn,A4 plain,5\nm,A4 plain,6\n")
    assert {name: t.get("A4 plain", 8) for name, t in read_cycles(path, ["n", "m"]).items()} == {"n": 5, "m": 6}
    path.write_text("format,cycles\nA4 plain,5\n")
    assert read_cycles(path, ["n"])["n"].get("A4 plain", 4) == 5
    with pytest.raises(InputError, match="needs the column 'network'"):
        read_cycles(path, ["n", "m"])


def test_energies_belong_to_elements_of_their_network(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("format,energy,edp\nA4 plain,2,10\nA4 r3+f3 c4,3,12\n")
    overq = report_cases.record("a", 3, 5.0, "overq", element="A4 r3+f3 c4")
    rival, float_ = report_cases.record("b", 3, 5.0, "sparq", element="A4 sparq"), report_cases.record("float", 4, 32.0, "float")
    found = with_energies([overq, rival, float_], path)
    assert [(r.energy, r.edp) for r in found] == [(3, 12), (None, None), (None, None)]
    assert with_energies([replace(overq, weight_bits=4)], path)[0].energy is None  # the table is of 8-bit weights
    with pytest.raises(InputError, match="needs the column 'network'"):
        with_energies([overq, replace(overq, network="other")], path)
    path.write_text("network,format,weight_bits,energy,edp\nother,A4 r3+f3 c4,4,7,8\n")
    other = replace(overq, network="other", weight_bits=4)
    assert [r.energy for r in with_energies([overq, other], path)] == [None, 7]
    path.write_text("format,energy,edp\nA4 plain,x,10\n")
    with pytest.raises(InputError, match="not a number"):
        with_energies([overq], path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("element,area\nplain,3\n", "no column 'activation_bits'"), ("", "no column 'element'"),
     ("element,activation_bits,weight_bits,area\nplain,4,8,x\n", "not a number")],
)  # fmt: skip
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_areas(tmp_path / "a.csv")
    with pytest.raises(InputError, match="not a readable CSV file"):
        read_areas(tmp_path / "none.csv")


def test_records_come_back_from_their_table(tmp_path: Path) -> None:
    more = [replace(each, own={"mine.py:f": 0.5}, sqnr=12.25, right="f0") for each in RESULTS]
    for records in (RESULTS, more, [more[0], RESULTS[1]], []):
        (tmp_path / "r.csv").write_text(to_csv(records))
        assert read_csv(tmp_path / "r.csv") == records
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"r.csv: not a table of records as `overq study export` writes it"):
        read_csv(tmp_path / "r.csv")
