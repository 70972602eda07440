"""The documentation site: `make docs` builds it into out/docs/html from a copy of this folder, without warnings.

The pages are the Markdown files of this folder, which a code host shows as they are. What the site adds: navigation, search, a dark
page, the explorer, and the reference, which `_reference.py` writes from the code.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import _reference

import overq

project, author, release = "overq", "The overq authors", overq.__version__
copyright = "the overq authors, Apache-2.0"
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "overq"
html_static_path: list[str] = []
html_show_sourcelink = False
pygments_style, pygments_dark_style = "default", "github-dark"
# Links to files of the repository that are no pages: the site shows their words.
OUTSIDE = re.compile(r"\[((?:[^\[\]]|\n)*?)\]\((?:\.\./)+(?:src|scripts|studies|tests|benchmarks|README|CONTRIBUTING|CHANGELOG)[^)]*\)")

# Pictures with a dark twin: a code host takes the reader's scheme, the site its own switch.
TWINS = re.compile(r'<picture>\s*<source [^>]*srcset="([^"]+)">\s*<img alt="([^"]*)" src="([^"]+)">\s*</picture>')
TWO = "\n```{{image}} {2}\n:alt: {1}\n:class: only-light\n```\n```{{image}} {0}\n:alt: {1}\n:class: only-dark\n```\n"


def words(text: str) -> str:
    """A page as the site has it."""
    return TWINS.sub(lambda twin: TWO.format(*twin.groups()), OUTSIDE.sub(r"\1", text))


# What the theme leaves out for those who use a keyboard or a screen reader (axe-core says so): written into every page.
FOCUS = (
    ('class="caption" role="heading"', 'class="caption" role="heading" aria-level="2"'),
    ('<aside class="sidebar-drawer"', '<aside class="sidebar-drawer" aria-label="All pages"'),
    ('<aside class="toc-drawer', '<aside aria-label="This page" class="toc-drawer'),
    ("<pre>", '<pre tabindex="0">'),
    ('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
)


def accessible(folder: Path) -> None:
    for page in folder.glob("**/*.html"):
        text = page.read_text(encoding="utf-8")
        for what, better in FOCUS:
            text = text.replace(what, better)
        page.write_text(text, encoding="utf-8")


def setup(app) -> None:  # type: ignore[no-untyped-def]
    """Write the reference before the pages are read; put the explorer's files beside its page."""
    app.connect("source-read", lambda app, name, text: text.__setitem__(0, words(text[0])))
    app.connect("builder-inited", lambda app: _reference.write(Path(app.srcdir)))
    app.connect("build-finished", lambda app, error: None if error else _reference.explorer(Path(app.outdir)))
    app.connect("build-finished", lambda app, error: None if error else accessible(Path(app.outdir)))
