"""Tables and pictures of pages come from records: the committed pages are what their records make, and no table mixes code."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from overq.compare import paired
from overq.errors import InputError
from overq.records import Record
from overq.report import pages
from overq.report.records import to_csv

ROOT = Path(__file__).parents[2]
FILE = ROOT / "studies" / "pages.toml"
# Tables of numbers that are not of studies: stopwatch, silicon, and words. Each page is held elsewhere, or its numbers are counts.
ELSEWHERE = {"hardware.md", "kernels.md", "cycles.md", "format.md", "methods.md"}


def record(label: str, network: str = "n", code: str = "c0de", right: str = "f0", **more: object) -> Record:
    correct = bin(int(right, 16)).count("1")
    values = Record(
        "s", network, label, "m", 8, correct, 12.5 * correct, 1.0, 0.5, 1.5, 3.0, 1.0, 4.0, 24.0, 8, None, None, 0, 1.0, "0.1.0", code,
        "abc123", "2", "2", right=right,
    )  # fmt: skip
    return replace(values, **more)  # type: ignore[arg-type]


def table(folder: Path, records: list[Record], **more: object) -> pages.Table:
    pages._records.cache_clear()
    (folder / "r.csv").write_text(to_csv(records))
    (folder / "p.md").write_text("before\n<!-- t -->\nold\n<!-- end -->\nafter\n")
    return pages.Table(**{"page": folder / "p.md", "name": "t", "records": (folder / "r.csv",), "rows": "networks", **more})


def test_the_committed_pages_are_what_their_records_make() -> None:
    tables, pictures = pages.read(FILE)
    for page, text in pages.made(tables).items():
        assert page.read_text(encoding="utf-8") == text, f"{page}: make pages"
    assert {picture.file.resolve() for picture in pictures} <= set((ROOT / "docs" / "img").iterdir())


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "calibration.md", ROOT / "docs" / "studies.md"], ids=lambda p: p.name)
def test_every_measured_table_of_a_page_is_made_from_records(page: Path) -> None:
    """What is left once the generated tables are cut out holds no table with a measured figure (two decimals)."""
    assert page.name not in ELSEWHERE
    rest = re.sub(r"<!-- [\w-]+ -->\n.*?<!-- end -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    typed = [line for line in rest.splitlines() if line.startswith("|") and re.search(r"[+−-]?\d+\.\d\d", line)]
    assert [line for line in typed if not TYPED.match(line)] == []


# The tables of timings, which need a stopwatch: README's and studies'.
TYPED = re.compile(r"\| (op / |the same, |ResNet-50-shaped|the runner |two workers |an OverQ )")


def test_cells_by_hand(tmp_path: Path) -> None:
    records = [record("a"), record("b", right="fe"), record("a", "m", right="80"), record("b", "m", right="ff", own={"x": 0.12345})]
    made = table(
        tmp_path, records, corner="net",
        columns=[
            {"head": "A", "label": "a"}, {"head": "both", "label": ["a", "b"], "show": "bits"},
            {"head": "B-A", "label": "{l}", "l": "b", "against": "a", "show": "paired"}, {"head": "own", "label": "b", "show": "x"},
        ],
    )  # fmt: skip
    p = paired(*([int(b) for b in bits] for bits in ("11110000", "11111110")))  # type: ignore[arg-type]
    text = pages.made([made])[tmp_path / "p.md"]
    assert text.startswith("before\n<!-- t -->\n| net | A | both | B-A | own |\n| --- | ---: | ---: | ---: | ---: |\n")
    assert f"| n | 50.00 | 4 / 4 | {p.difference:+.2f} [{p.low:+.2f}, {p.high:+.2f}] |  |\n" in text
    assert "| m | 12.50 | 4 / 4 | +87.50 " in text
    assert "| 0.123 |" in text
    assert text.endswith("\n\nRecords of code c0de (commit abc123): `r.csv`.\n<!-- end -->\nafter\n")


def test_records_of_different_code_make_no_table(tmp_path: Path) -> None:
    records = [record("a"), record("a", "m", code="beef"), record("b", "m", code="")]
    columns = [{"head": "A", "label": "a"}]
    with pytest.raises(InputError, match=r"the table 't' would mix records of different code \(beef, c0de\): run the studies again"):
        pages.drawn(table(tmp_path, records, columns=columns))
    with pytest.raises(InputError, match=r"different code \(unknown\)"):
        pages.drawn(table(tmp_path, [record("a", code="")], columns=columns))
    assert "Records of an earlier version of the code, to be made again: `r.csv`,\ncommit abc123." in pages.drawn(
        table(tmp_path, records, columns=columns, earlier=True)
    )
    used = pages.drawn(table(tmp_path, [record("a"), record("b", code="beef")], columns=columns))
    assert "code c0de" in used, "records that the table does not use do not count"


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finds none of its records"):
        pages.drawn(table(tmp_path, [record("a")], columns=[{"head": "A", "label": "z"}]))
    with pytest.raises(InputError, match="no place for the table 'u'"):
        pages.made([replace(table(tmp_path, [record("a")], columns=[{"head": "A", "label": "a"}]), name="u")])
    column = {"head": "A", "label": "a", "against": "b", "show": "paired"}
    with pytest.raises(InputError, match="cannot be compared: not the same images"):
        pages.drawn(table(tmp_path, [record("a"), record("b", images=7, right="80")], columns=[column]))
    for text, message in (
        ("x = ", "Invalid value"),
        ("[[table]]\nbots = 1\n", "no key 'bots'"),
        ("x = 1\n", "not x"),
        ("[[table]]\n", "page"),
    ):
        (tmp_path / "p.toml").write_text(text)
        with pytest.raises(InputError, match=f"p.toml: not a file of tables: .*{message}"):
            pages.read(tmp_path / "p.toml")


def test_pictures(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(to_csv([record("k=1"), record("k=2", right="ff"), record("k=1", "m")]))
    pages._records.cache_clear()
    lines = pages.Picture(
        tmp_path / "p.png", "lines", (tmp_path / "r.csv",), axis="k", x=(1, 2, 3), lines=({"head": "l", "label": "k={x}"},)
    )
    first, second = pages.figure(lines).axes
    assert first.lines[0].get_xydata().tolist() == [[1, 50.0], [2, 100.0]]
    assert second.lines[0].get_xydata().tolist() == [[1, 50.0]]
    assert pages.figure(lines).get_supxlabel() == "Records of code c0de (commit abc123): `r.csv`."
    with pytest.raises(InputError, match="of the kind front or lines, not 'pie'"):
        pages.figure(replace(lines, kind="pie"))
