"""Results of tools, kept by the content of all that went in, in the folder $OVERQ_CACHE; without it nothing is kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from overq.output import write

CACHE_VARIABLE = "OVERQ_CACHE"


def remembered(kind: str, inputs: Iterable[str], fresh: Callable[[], dict[str, str]]) -> dict[str, str]:
    """What `fresh` makes, from the cache if the same was made before.

    kind     what the file's name begins with
    inputs   all that decides the result, the tool's version included
    """
    folder = os.environ.get(CACHE_VARIABLE)
    if not folder:
        return fresh()
    digest = hashlib.sha256()
    for text in inputs:
        digest.update(text.encode())
    path = Path(folder) / f"{kind}-{digest.hexdigest()[:24]}.json"
    with suppress(OSError, ValueError):  # a damaged entry is as good as none
        return dict(json.loads(path.read_text(encoding="utf-8")))
    files = fresh()
    with suppress(OSError):  # a cache that cannot be written is none
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(files))
    return files


def keep() -> None:
    """Keep results in the user's cache folder, unless $OVERQ_CACHE names another."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault(CACHE_VARIABLE, str(home / "overq" / "synth"))
