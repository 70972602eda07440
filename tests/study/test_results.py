"""Versions of code never mix, and what the commands print, export and draw is what the store holds."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study_cases import DIGITS, STUDY, cells, command, cost_of, fill, first

from overq.spec import Format
from overq.study.cell import cells_of
from overq.study.plan import Network
from overq.study.store import Store
from overq.study.table import of_one_version, settled

OURS = Format(3, 4).label
AREAS = f"element,activation_bits,weight_bits,area\nA3 plain,3,8,401\nA4 plain,4,8,465\n{OURS},3,8,448\n{Format(4, 4).label},4,8,508\n"
CYCLES = f"format,cycles\nA3 plain,1000\nA4 plain,1000\n{OURS},1001\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.sqlite"


def old_code(label: str, shard: int) -> np.ndarray:
    return first(1)


def new_code(label: str, shard: int) -> np.ndarray:
    """Ten images a shard: float 9, OverQ 8, SPARQ 9, plain as many as it has bits."""
    method, _, rest = label.partition(":")
    return first({"float": 9, "overq": 8, "sparq": 9}.get(method, int(rest[5:6] or 0)))


def test_the_newest_complete_version_is_taken_and_the_others_are_named(path: Path) -> None:
    store = Store(path)
    fill(store, cells(STUDY, code="old"), old_code, cost_of)
    fill(store, cells(STUDY, code="new"), new_code, cost_of)
    store.add("s", cells(STUDY, code="newest"))  # not run yet
    rows, lines = of_one_version(store.rows())
    assert {json.loads(row["made_by"])["code"] for row in rows} == {"new"}
    assert lines == [
        "s, digits: shown is code new (newest complete); other code, data or sizes are left out: "
        "code newest with 0 of 20 cells done; code old with 20 of 20 cells done"
    ]
    found = {s.cell.setting.label: s for s in settled(rows)}
    assert found["float"].found.columns["top1"][:, 0].tolist() == [1] * 9 + [0] + [1] * 9 + [0]
    assert found["float"].versions["commit"] == "abc"


def test_a_half_run_version_is_shown_alone_if_there_is_no_complete_one(path: Path) -> None:
    store = Store(path)
    store.add("s", cells(STUDY, code="old"))
    fill(store, cells(STUDY, code="new")[:3], new_code, cost_of)
    store.add("s", cells(STUDY, code="new"))
    rows, lines = of_one_version(store.rows())
    assert [s.cell.setting.label for s in settled(rows)] == ["float"], "a setting with one shard of two is not shown"
    assert len(lines) == 1
    assert "newest with results, none is complete" in lines[0]


def test_other_sizes_are_another_version(path: Path) -> None:
    store = Store(path)
    fill(store, cells(STUDY), old_code, cost_of)
    fill(store, cells(replace(STUDY, shards=1)), new_code, cost_of)
    assert {len(s.found.columns["top1"]) for s in settled(of_one_version(store.rows())[0])} == {10}


def test_old_code_is_left_out_of_every_command(path: Path, capsys, monkeypatch) -> None:
    store = Store(path)
    fill(store, cells(STUDY, code="old"), old_code, cost_of)
    fill(store, cells(STUDY, code="new"), new_code, cost_of)
    a, b, csv_file, png = "float", "overq:bits=3:W8", path.with_name("r.csv"), path.with_name("r.png")
    for words in (("show",), ("compare", a, b), ("export", csv_file), ("plot", png)):
        code, out, err = command(capsys, monkeypatch, "study", *words, "--store", path)
        assert code == 0, err
        assert err.count("\n") == 1
        assert "s, digits: shown is code new (newest complete)" in err
        assert " 10.00 " not in out
        if words[0] == "compare":
            assert "overq:bits=3:W8 - float = -10.00 points" in out


def test_export_has_every_setting_with_versions_seed_and_costs(path: Path, capsys, monkeypatch, tmp_path: Path) -> None:
    fill(Store(path), cells(STUDY, code="c0de"), new_code, cost_of)
    (tmp_path / "areas.csv").write_text(AREAS)
    (tmp_path / "cycles.csv").write_text(CYCLES)
    words = "--areas", tmp_path / "areas.csv", "--cycles", tmp_path / "cycles.csv", "--store", path
    assert command(capsys, monkeypatch, "study", "export", tmp_path / "out.csv", *words)[0] == 0
    rows = {row["label"]: row for row in csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text()))}
    assert list(rows) == [s.label for s in STUDY.settings]
    ours = rows["overq:bits=3:W8"]
    assert [ours[k] for k in ("study", "top1", "difference", "bits", "multiplier", "area", "cycles", "seed", "code", "commit")] == [
        "s", "80.0", "-10.0", "5.0", "24.0", "448.0", "1001.0", "0", "c0de", "abc"]  # fmt: skip
    assert float(ours["low"]) < -10 < float(ours["high"]) <= 0
    assert {row["overq"] for row in rows.values()} == {"0.1.0"}
    assert all(row["torch"] and row["numpy"] for row in rows.values())
    assert rows["sparq:bits=4:W8"]["area"] == "", "no such element in the table"
    assert (ours["element"], rows["float"]["element"]) == (OURS, "")


def test_a_store_given_as_an_argument_gets_a_hint(path: Path, capsys, monkeypatch) -> None:
    status, _, err = command(capsys, monkeypatch, "study", "show", "mine.sqlite")
    assert (status, err.strip()) == (
        2, "overq: Got unexpected extra argument(s) (mine.sqlite): the store of results is given as --store mine.sqlite")  # fmt: skip
    assert "see overq study show --help" in command(capsys, monkeypatch, "study", "show", "more")[2]


def test_parquet_holds_the_same_or_says_what_is_missing(path: Path, capsys, monkeypatch, tmp_path: Path) -> None:
    fill(Store(path), cells(STUDY), new_code, cost_of)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    code, _, err = command(capsys, monkeypatch, "study", "export", tmp_path / "out.parquet", "--store", path)
    assert (code, err) == (
        2, "overq: Parquet needs pyarrow, which is not installed: pip install 'overq[parquet]', or export .csv\n")  # fmt: skip
    monkeypatch.undo()
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    assert command(capsys, monkeypatch, "study", "export", tmp_path / "out.parquet", "--store", path)[0] == 0
    rows = {row["label"]: row for row in parquet.read_table(tmp_path / "out.parquet").to_pylist()}
    assert (rows["overq:bits=3:W8"]["top1"], rows["float"]["area"], len(rows)) == (80.0, None, 10)


@pytest.mark.parametrize(("cost", "settings"), [("bits", 9), ("multiplier", 9), ("area", 4), ("cycles", 3)])
def test_plot_writes_a_picture_and_says_where_overq_stands(
    path: Path, capsys, monkeypatch, tmp_path: Path, cost: str, settings: int
) -> None:
    from overq.report import charts

    fill(Store(path), cells(STUDY), new_code, cost_of)
    (tmp_path / "areas.csv").write_text(AREAS)
    (tmp_path / "cycles.csv").write_text(CYCLES)
    drawn = []
    real = charts.study
    monkeypatch.setattr(charts, "study", lambda *a: drawn.append(a[0]) or real(*a))
    words = "--cost", cost, "--areas", tmp_path / "areas.csv", "--cycles", tmp_path / "cycles.csv", "--store", path
    code, out, _ = command(capsys, monkeypatch, "study", "plot", tmp_path / "p.png", *words)
    assert code == 0
    assert out.startswith("digits, W8: OverQ is on the front: overq:bits=3:W8")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert sum(r.method != "float" for r in drawn[0]) == settings


def test_a_store_with_two_studies_asks_which(path: Path, capsys, monkeypatch) -> None:
    store = Store(path)
    fill(store, cells(STUDY), new_code, cost_of)
    fill(store, cells(replace(STUDY, name="t", seed=1)), new_code, cost_of)
    code, _, err = command(capsys, monkeypatch, "study", "plot", "x.png", "--store", path)
    assert (code, err) == (2, "overq: the store holds s, t: choose one with --study\n")
    code, out, _ = command(capsys, monkeypatch, "study", "show", "--study", "t", "--store", path)
    assert (code, out.count("\n")) == (0, 11)
    assert command(capsys, monkeypatch, "study", "show", "--study", "u", "--store", path)[2] == (
        "overq: no study 'u' in the store; there are s, t\n")  # fmt: skip


def test_a_network_whose_files_are_absent_fails_alone(path: Path, tmp_path: Path) -> None:
    gone = Network("gone", "overq.study.digits:network", str(tmp_path / "gone.npz"), "digits")
    store, study = Store(path), replace(STUDY, networks=(gone, DIGITS))
    store.add("s", *cells_of(study))
    states = {(r["network"], r["state"], r["reason"]) for r in store.rows()}
    assert states == {("gone", "failed", f"{tmp_path}/gone.npz: no such file or folder"), ("digits", "pending", None)}
    store.forget("s", "absent:")
    (tmp_path / "gone.npz").write_bytes(b"now it is there")
    store.add("s", *cells_of(study))
    assert {r["state"] for r in store.rows()} == {"pending"}


def test_show_and_compare_speak_json(path: Path, capsys, monkeypatch) -> None:
    fill(Store(path), cells(STUDY), new_code, cost_of)
    code, out, err = command(capsys, monkeypatch, "study", "show", "--store", path, "--json", "-")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert shown["open"] == []
    assert {line["label"]: line["top1"] for line in shown["settings"]}["float"] == 90.0
    code, out, _ = command(capsys, monkeypatch, "study", "compare", "float", "overq:bits=3:W8", "--store", path, "--json", "-")
    (line,) = json.loads(out)
    assert (line["network"], line["measure"], line["difference"], line["images"]) == ("digits", "top1", -10.0, 20)
