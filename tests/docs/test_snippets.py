"""What readers see is run: every ```python block of README.md and docs/*.md, each file's blocks in one namespace.

A block fenced as ```python no-run is shown only. Blocks run in a scratch folder, so they may write files.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))) if "```python\n" in page.read_text(encoding="utf-8")
]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)|(?:<img [^>]*src|srcset)=\"([^\"]+)\"")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "__snippet__"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        exec(
            compile("\n" * line + block.group(1), str(page), "exec", dont_inherit=True), names
        )  # a traceback then shows the page's own line


def test_the_page_of_the_format_is_among_them() -> None:
    assert ROOT / "docs" / "format.md" in PAGES


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_to_files_of_the_repository_lead_somewhere(page: Path) -> None:
    targets = [
        target
        for target in (a or b for a, b in LINK.findall(page.read_text(encoding="utf-8")))
        if "://" not in target and not target.startswith("mailto:")
    ]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]), ids=lambda page: str(page.relative_to(ROOT))
)
def test_prose_has_short_lines(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|") and "http" not in line] == []
