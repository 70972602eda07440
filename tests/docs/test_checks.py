"""Every claim of the page "What is checked for you" names tests, and those tests exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| guaranteed"))]


@cache
def defined_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_claim_names_tests_that_exist() -> None:
    assert len(ROWS) > 30
    for row in ROWS:
        claim, named = row.strip("| ").rsplit(" | ", 1)
        tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", named)
        assert tests, f"no test holds: {claim}"
        for file, name in tests:
            assert name in defined_in(file), f"{file} has no {name}"


def test_the_readme_leads_there() -> None:
    assert "(docs/checks.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
