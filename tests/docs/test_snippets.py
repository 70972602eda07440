"""What readers see is run: every ```python block of README.md and docs/*.md, each file's blocks in one namespace.

A block fenced as ```python no-run is shown only. Blocks run in a scratch folder, so they may write files.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from overq.study.plan import read

ROOT = Path(__file__).parents[2]
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))) if "```python\n" in page.read_text(encoding="utf-8")
]
OF_EXTRAS = ("transformers", "onnx_ir", "onnxruntime", "amaranth")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)|(?:<img [^>]*src|srcset)=\"([^\"]+)\"")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "__snippet__"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        code = compile("\n" * line + block.group(1), str(page), "exec", dont_inherit=True)  # a traceback then shows the page's own line
        try:
            exec(code, names)
        except ModuleNotFoundError as error:
            if error.name not in OF_EXTRAS:
                raise
            pytest.skip(f"the page needs {error.name}, which an extra brings")


@pytest.mark.parametrize("page", [ROOT / "docs" / "studies.md"], ids=lambda page: page.name)
def test_the_studies_of_a_page_are_studies(page: Path, tmp_path: Path) -> None:
    """Blocks of TOML join to one file that is read without its networks' files; there is no key that it does not know."""
    whole = "\n".join(re.findall(r"^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    (tmp_path / "study.toml").write_text("seed = 0\n" + whole, encoding="utf-8")
    study = read(tmp_path / "study.toml")
    assert len(study.settings) > 20


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
