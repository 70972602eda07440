"""The documentation site builds without warnings, leads to every page, and works in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_the_index_leads_to_every_page() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = [line for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL) for line in block.split("\n\n", 1)[1].split()]
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.glob("**/*.md")} - {"index"}
    assert pages == {name for name in listed if not name.startswith("reference/")}
    assert len(listed) == len(set(listed))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "src")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(folder / "src"), str(folder / "html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


@pytest.mark.slow
def test_the_reference_holds_the_api_the_commands_and_the_errors(site: Path) -> None:
    said = {name: (site / "reference" / f"{name}.html").read_text(encoding="utf-8") for name in ("api", "cli", "errors")}
    assert all(f"overq.{name}" in said["api"] for name in ("Format", "Recipe", "quantize", "from_onnx"))
    assert all(f"overq {name}" in said["cli"] for name in ("evaluate", "report", "study run", "rtl", "synth"))
    assert "FidelityError" in said["errors"]
    assert (site / "searchindex.js").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("dark", 360)], ids=["light", "dark", "phone-dark"])
def test_pages_open_without_errors_axe_is_content_and_the_explorer_draws(scheme: str, width: int, site: Path) -> None:
    from report_cases import chromium, violations

    with chromium(color_scheme=scheme, viewport={"width": width, "height": 800}) as (page, said):
        for name in ("index", "which-format", "tutorials/own-network", "format", "report", "reference/cli"):
            page.goto((site / f"{name}.html").as_uri())
            assert page.locator("h1").count() == 1
            assert violations(page) == [], name
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.goto((site / "format.html").as_uri())
        shown = [image.get_attribute("src") for image in page.locator("article img").all() if image.is_visible()]
        assert len(shown) == 9
        assert all(("-dark" in source) == (scheme == "dark") for source in shown), "pictures follow the page"
        page.goto((site / "explorer.html").as_uri())
        page.wait_for_selector("#explorer-bits")
        assert page.locator(".lanes td.digit").count() > 8
        assert violations(page) == []
        box = page.locator("#explorer-bits")  # whatever the lanes hold, the stored bits change
        box.focus()
        before = page.locator("#explorer-body [role=status]").inner_text()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        assert page.locator("#explorer-body [role=status]").inner_text() != before, "the keyboard is enough"
        assert said == []
        page.goto((site / "search.html").as_uri() + "?q=cascade")  # from a file it finds pages, but may not fetch excerpts of them
        page.wait_for_selector("#search-results li")
