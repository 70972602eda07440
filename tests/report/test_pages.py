"""Tables and pictures of pages come from records: the committed pages are what their records make, and no table mixes code."""

from __future__ import annotations

import re
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from overq.compare import paired
from overq.errors import InputError
from overq.records import Record
from overq.report import pages
from overq.report.means import gained, nearer
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
    named = {picture.file.resolve() for picture in pictures}
    assert named | {file.with_stem(f"{file.stem}-dark") for file in named} <= set((ROOT / "docs" / "img").iterdir())


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
        tmp_path / "p.svg", "lines", (tmp_path / "r.csv",), axis="k", x=(1, 2, 3), lines=({"head": "l", "label": "k={x}"},)
    )
    made = pages.figure(lines)
    assert made["data"]["values"] == [
        {"network": "n", "series": "l", "x": 1, "y": 50.0}, {"network": "n", "series": "l", "x": 2, "y": 100.0},
        {"network": "m", "series": "l", "x": 1, "y": 50.0},
    ]  # fmt: skip
    assert made["title"]["subtitle"] == ["Records of code c0de (commit abc123): `r.csv`."]
    with pytest.raises(InputError, match="of the kind front or lines, not 'pie'"):
        pages.figure(replace(lines, kind="pie"))
    light, dark = pages.drawings(lines).items()
    assert (light[0].name, dark[0].name) == ("p.svg", "p-dark.svg")
    assert (b"#ffffff" in light[1], b"#ffffff" in dark[1]) == (True, False)


def test_a_mean_over_networks_needs_all_of_them(tmp_path: Path) -> None:
    records = [
        record("a", sqnr=10.0),
        record("a", "m", right="80", sqnr=13.0),
        record("b", sqnr=9.0),
        record("b", "m", right="ff", sqnr=9.0),
    ]
    columns = [
        {"head": "a", "label": "a"}, {"head": "dB", "label": "a", "show": "sqnr"},
        {"head": "more", "label": "a", "against": "b", "show": ["more", "gain"]},
    ]  # fmt: skip
    rows = [{"head": "mean", "network": "mean"}]
    text = pages.drawn(table(tmp_path, records, rows=rows, columns=columns))
    assert "| mean | 31.25 | 11.5 | +2.5, -43.75 |" in text
    with pytest.raises(InputError, match="finds none of its records"):
        pages.drawn(table(tmp_path, [*records, record("b", "third")], rows=rows, columns=columns[:1]))


def test_intervals_of_a_mean_are_those_of_independent_networks() -> None:
    pairs = [(record("a", right="f0"), record("b", right="0f")), (record("a", right="fe"), record("b", right="fe"))]
    own = [gained([pair]) for pair in pairs]
    difference, low, high = gained(pairs)
    half = sqrt(sum(((h - w) / 2) ** 2 for _, w, h in own)) / 2
    assert (difference, low, high) == pytest.approx((sum(d for d, _, _ in own) / 2, difference - half, difference + half))


def test_a_front_compares_with_the_best_that_costs_no_more(tmp_path: Path) -> None:
    def of(label: str, method: str, bits: float, sqnr: float, network: str = "n", right: str = "f0") -> Record:
        return record(label, network, method=method, bits=bits, sqnr=sqnr, right=right)

    records = [
        of("ours", "overq_recipe", 5.0, 20.0, right="fe"), of("p5", "uniform", 5.0, 19.0), of("p6", "uniform", 6.0, 25.0),
        of("p4", "uniform", 4.0, 15.0, right="00"), of("ours too", "overq", 4.0, 30.0), of("float", "float", 0.0, 99.0),
        of("ours", "overq_recipe", 4.75, 10.0, "m"), of("p4", "uniform", 4.0, 12.0, "m"),
    ]  # fmt: skip
    _ = table(tmp_path, records, columns=[])
    block = pages.Fronts(tmp_path / "p.md", "t", (tmp_path / "r.csv",), [{"head": "A4", "label": "ours"}])
    block = replace(block, names={"n": "N"})
    lines = pages.made([block])[tmp_path / "p.md"].splitlines()
    assert lines[2] == "| OverQ | bits | dB | best of the others, dB | dB more | points more | on it | N | m |"
    assert re.fullmatch(r"\| A4 \| 4.75 – 5 \| 15.0 \| 15.5 \| -0.5 \| \+18.75 \[.*\] \| 1 of 2 \| \+1.0 p5 \| -2.0 p4 \|", lines[4])
    bare = pages.drawn(replace(block, ours=[{"head": "A4", "label": "ours", "without": "p5"}]))
    assert "| 15.0 | 13.5 | +1.5 |" in bare
    assert "| +5.0 p4 | -2.0 p4 |" in bare
    with pytest.raises(InputError, match="finds none of its records"):
        pages.drawn(replace(block, cost="area"))
    with pytest.raises(InputError, match="a record has no cost 'label'"):
        pages.drawn(replace(block, cost="label"))


def errors(noise: np.ndarray) -> dict[str, object]:
    """The fields of a record whose scores have these energies of signal (100 an image) and error."""
    return {"errors": (noise / noise.mean()).astype("<f2").tobytes().hex(), "sqnr": 10 * float(np.log10(100 / noise.mean()))}


def test_decibels_have_the_interval_of_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(3)
    worse, better = (rng.lognormal(mean, size=8) for mean in (1.0, 0.5))
    columns = [np.stack([np.full(8, 100.0), noise], 1) for noise in (worse, better)]
    wanted = paired(*columns, "sqnr", resamples=1000)  # type: ignore[misc]
    pair = record("b", **errors(better)), record("a", **errors(worse))
    assert nearer([pair]) == pytest.approx((wanted.difference, wanted.low, wanted.high), abs=0.02)
    more, low, high = nearer([pair, (pair[1], pair[1])])  # type: ignore[misc]
    assert (more, (high - low) / 2) == pytest.approx((wanted.difference / 2, (wanted.high - wanted.low) / 4), abs=0.02)
    assert nearer([pair, (pair[0], record("a"))]) is None
    with pytest.raises(InputError, match="not the same images"):
        nearer([(pair[0], replace(pair[1], images=7))])


def test_a_front_in_area_takes_the_areas_of_a_table(tmp_path: Path) -> None:
    """By the name of the element: giving way changes no element, and an array where the table does not have it is not charged."""
    ours = {"method": "overq_recipe", "element": "A4 r3+f3 c4 evict2"}
    _ = table(tmp_path, [record("ours", sqnr=20.0, **ours), record("p4", sqnr=15.0, method="uniform", element="A4 plain")], columns=[])
    (tmp_path / "e.csv").write_text("element,activation_bits,weight_bits,area\nA4 plain,4,8,400.5\nA4 r3+f3 c4,4,8,450\n")
    (tmp_path / "a.csv").write_text("array,size,all\nA4 plain,64,2000000\nA4 r3+f3 c4,64,2500000\n")
    block = pages.Fronts(tmp_path / "p.md", "t", (tmp_path / "r.csv",), [{"head": "A4", "label": "ours"}], "area", areas=tmp_path / "e.csv")
    assert "| A4 | 450 | 20.0 | 15.0 | +5.0 |" in pages.drawn(block)
    arrays = replace(block, cost="array_area", areas=None, arrays=tmp_path / "a.csv")
    with pytest.raises(InputError, match="finds none of its records"):
        pages.drawn(arrays)
    (tmp_path / "a.csv").write_text("array,size,all\nA4 plain,64,2000000\nA4 r3+f3 c4 evict2,64,2500001\n")
    assert "| A4 | 2,500,001 | 20.0 |" in pages.drawn(arrays)
    (tmp_path / "c.csv").write_text("network,rows,format,cycles\nn,64,A4 plain,100\nn,64,A4 r3+f3 c4,99\nn,128,A4 plain,7\n")
    cycles = replace(block, cost="bit_cycles", areas=None, cycles=tmp_path / "c.csv")
    with pytest.raises(InputError, match="finds none of its records"):
        pages.drawn(cycles)  # 4 bits each, and plain is slower
    (tmp_path / "c.csv").write_text("network,rows,format,cycles\nn,64,A4 plain,100\nn,64,A4 r3+f3 c4,300\n")
    assert "| OverQ | bits × cycles | dB |" in pages.drawn(cycles)
    assert "| A4 | 1,200 | 20.0 | 15.0 |" in pages.drawn(cycles)


def test_figures_in_words_come_from_records(tmp_path: Path) -> None:
    _ = table(tmp_path, [record("a", sqnr=12.34)], columns=[])
    words = pages.Text(
        tmp_path / "p.md", "t", (tmp_path / "r.csv",), "A has {0} dB.", [{"network": "n", "label": "a", "show": "sqnr"}]
    )  # fmt: skip
    assert pages.made([words])[tmp_path / "p.md"] == "before\n<!-- t -->\nA has 12.3 dB.\n<!-- end -->\nafter\n"
    with pytest.raises(InputError, match="finds no record of"):
        pages.drawn(replace(words, values=[{"network": "n", "label": "z", "show": "sqnr"}]))


@pytest.mark.parametrize("name", ["calibration.md", "studies.md"])
def test_no_measured_figure_is_typed_into_the_words_of_a_page(name: str) -> None:
    """Outside the generated blocks, tables and code there is no signed number and no number of dB, points or percent."""
    text = re.sub(r"<!-- [\w-]+ -->\n.*?<!-- end -->|^```.*?^```$", "", (ROOT / "docs" / name).read_text("utf-8"), flags=re.DOTALL | re.M)
    words = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    assert re.findall(r"(?<![\w.])[+−-]\d[\d.,]*|\d[\d.,]*\s+(?:dB|points?|%)", words.replace("95 %", "")) == []
