"""Signs of life: given by a thread now and then, and told old by the clock of the disk that they are on."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType


class Sign:
    """A thread that calls `give` every `seconds`, until `end` or the end of a `with` block."""

    def __init__(self, seconds: float, give: Callable[[], None]) -> None:
        self._seconds, self._give, self._stop = seconds, give, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self._give()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Sign:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()


def now_on(folder: Path) -> float:
    """What time it is for the disk, by a file made there for a moment. OSError where none can be made."""
    probe = folder / f".now-{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
