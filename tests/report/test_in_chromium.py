"""The report in a browser: drawn without errors, usable with the keyboard, readable on a phone and in the dark, and nothing acts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_cases import CONTENTS, HOSTILE, chromium, command, make_store, violations

from overq.report.html import page as page_of


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    records = (*CONTENTS.records, *(replace(r, network=HOSTILE) for r in CONTENTS.records))
    path.write_text(page_of(replace(CONTENTS, records=records)), encoding="utf-8")
    return path.as_uri()


def through(page) -> None:
    """Draw what waits until it comes into sight, as before printing."""
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function("[...document.querySelectorAll('.chart')].filter(e => e.offsetParent).every(e => e.dataset.drawn)")
    page.locator("#explorer-body").scroll_into_view_if_needed()
    page.wait_for_selector("#explorer-bits")


def test_everything_is_drawn_the_keyboard_works_and_axe_is_content(report: str) -> None:
    with chromium() as (page, said):
        page.goto(report)
        page.wait_for_selector("#front[data-drawn=yes] svg")
        assert page.evaluate("document.querySelectorAll('#front path[aria-roledescription=point], #front .mark-symbol path').length") >= 5
        through(page)
        assert page.locator(".chart[data-drawn=no]").count() == 0
        assert page.title() != "owned"
        assert violations(page) == []

        search = page.locator("#settings-words")
        search.focus()
        page.keyboard.type("overq a4")
        rows = page.locator("#settings-table tbody tr")
        assert rows.count() == 2
        search.fill("")
        head = page.locator("#settings-table thead button", has_text="top-1 %")
        head.focus()
        page.keyboard.press("Enter")
        assert page.locator("#settings-table th[aria-sort=descending]").count() == 1
        assert rows.first.locator("td").nth(3).inner_text() == "90.00"

        box = page.locator("#families input").nth(1)
        box.focus()
        before = page.locator("#front-says").inner_text()
        page.keyboard.press("Space")
        assert page.locator("#front-says").inner_text() != before
        page.locator("#group").select_option(index=1)
        assert HOSTILE in page.locator("#front-says").inner_text()
        assert page.title() != "owned"
        assert said == []


def test_the_explorer_follows_its_switches(report: str) -> None:
    with chromium() as (page, said):
        page.goto(report)
        through(page)
        says = page.locator("#explorer-body [role=status]")
        assert says.inner_text().startswith("Stored: 4 bits a value")
        page.locator("#explorer-bits").fill("4")
        page.locator("#explorer-range_bits").fill("4")
        page.locator("#explorer-fraction_bits").fill("4")
        assert says.inner_text().startswith("Stored: 5.5 bits a value")
        page.locator("#explorer-cascade").fill("0")
        assert says.inner_text().startswith("Stored: 4 bits a value")
        assert page.locator(".lanes td.digit").count() == 8
        built = page.locator("#explorer-built")
        built.focus()
        for _ in range(8):
            page.keyboard.press("ArrowRight")
        words = page.locator("#sum-says").inner_text()
        assert words.startswith("Lane 7 adds")
        so_far, whole = words.partition("Sum so far: ")[2].split(";")[0].split(" of ")
        assert so_far == whole
        assert said == []


def test_on_a_phone_in_the_dark(report: str) -> None:
    with chromium(viewport={"width": 360, "height": 740}, color_scheme="dark") as (page, said):
        page.goto(report)
        page.wait_for_selector("#front[data-drawn=yes] svg")
        through(page)
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert violations(page) == []
        assert said == []


@pytest.mark.slow
def test_a_thousand_cells_open_in_a_second(tmp_path: Path, capsys, monkeypatch) -> None:
    store = make_store(tmp_path / "s.sqlite", 1000, layers=20)
    code, _, _ = command(capsys, monkeypatch, "report", store, "--out", tmp_path / "r.html")
    assert code == 0
    with chromium() as (page, said):
        meter = page.context.new_cdp_session(page)
        meter.send("Performance.enable", {"timeDomain": "threadTicks"})  # what other processes do does not count
        page.goto((tmp_path / "r.html").as_uri())
        page.wait_for_selector("#front[data-drawn=yes] svg")
        busy = {each["name"]: each["value"] for each in meter.send("Performance.getMetrics")["metrics"]}["TaskDuration"]
        assert busy < 1, "seconds of the page's thread"
        assert page.title() != "owned"
        page.locator("#settings button", has_text="Show all 1001 rows").click()
        assert page.locator("#settings-table tbody tr").count() == 1001
        assert said == []
