"""The methods' page says what the classes in METHODS say, so a new one stands there too."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from overq.methods import METHODS

ROOT = Path(__file__).parents[2]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("methods_page", ROOT / "scripts" / "methods_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_methods_say() -> None:
    page = script()
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.made(text) == text, "make pages"
    for name, method in METHODS.items():
        assert f"| `{name}` | " in text
        assert f"### `{name}`" in text
        assert page.documentation(method).split("\n\n")[0] in text


def test_no_line_looks_like_a_list() -> None:
    page = script()
    text = "a " * 57 + "b - c " + "d " * 56 + "e + f"
    lines = page.wrapped(text)
    assert " ".join(lines) == text
    assert len(lines) == 3
    assert not [line for line in lines if line.startswith(("- ", "+ "))]
    assert not [line for line in page.part().splitlines() if line.startswith(("- ", "+ "))]
