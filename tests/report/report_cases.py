"""Contents and stores for tests of the report, made by hand, hostile names included; and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from overq.cli import main
from overq.methods import Cost
from overq.records import LayerCoverage, LayerInput, Record
from overq.report.contents import Contents, Cycles, Missing
from overq.spec import Counts
from overq.study.cell import Cell
from overq.study.measure import Measured
from overq.study.plan import Network, Setting
from overq.study.store import Store

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">=1+1"


def record(label: str, right: int, bits: float, method: str, network: str = "net", **more: Any) -> Record:
    """200 images, of which the first `right` are right; float has 180."""
    known = np.packbits(np.arange(200) < right).tobytes().hex()
    top1 = right / 2
    values: dict[str, Any] = {
        "study": "s",
        "network": network,
        "label": label,
        "method": method,
        "images": 200,
        "correct": right,
        "top1": top1,
        "difference": top1 - 90,
        "low": top1 - 92,
        "high": top1 - 88,
        "payload_bits": bits,
        "metadata_bits": 0.0,
        "bits": bits,
        "multiplier": 8 * bits,
        "weight_bits": 32 if method == "float" else 8,
        "area": None,
        "cycles": None,
        "seed": 0,
        "seconds": 1.0,
        "overq": "0.1.0",
        "code": "c0de",
        "commit": "abc",
        "torch": "2",
        "numpy": "2",
        "samples": 64,
        "right": known,
    }
    return Record(**{**values, **more})


RECORDS = (
    record("float", 180, 32, "float"),
    record("uniform:bits=3:W8", 120, 3, "uniform"),
    record("uniform:bits=4:W8", 170, 4, "uniform"),
    record("uniform:bits=6:W8", 179, 6, "uniform"),
    record("overq:bits=4,cascade=4:W8", 179, 5, "overq", sqnr=20.0, coverage=0.9, area=465.5),
    record("sparq:bits=4:W8", 176, 7.5, "sparq", sqnr=15.0),
)
INPUT = LayerInput(
    "conv1", 0.0, 6.0, tuple(float(i) for i in range(7)), (900, 60, 20, 10, 5, 1), ((0.0, 5.5, 1.0, 0.0, 2.0, 0.0, 0.0, 1.5),), 8
)
CONTENTS = Contents(
    "A network",
    RECORDS,
    (
        (
            "net",
            "overq:bits=4,cascade=4:W8",
            (LayerCoverage("conv1", 0.5, 0.02, 0.9, 0.94, "A4 r3+f3 c4", 0.2, 21.0), LayerCoverage("conv2", 0.4, 0.0, None, 0.87)),
        ),
    ),
    (("net", (INPUT,)),),
    Cycles("on an array", ({"layer": "conv1", "cycles": 100, "utilization": 0.5}, {"layer": "conv2", "cycles": 300, "utilization": 0.25})),
    (Missing("net", "olive:bits=4:W8", "failed", "out of memory", 2),),
    ("an older version",),
    ("overq study run study.toml",),
    (("overq", "0.1.0"),),
    (("images", "200"),),
)


def make_store(path: Path, settings: int, layers: int = 0) -> Path:
    """A store with so many settings done and one cell failed, of a network with a hostile name; each with so many layers."""
    made = ("code", "c"), ("overq", "0"), ("torch", "2"), ("numpy", "2")
    network = Network(HOSTILE, "nets.py:net", "digits", "digits")
    chosen = [Setting("float")]
    for i in range(settings):
        chosen.append(Setting("recipe", (("bits", 3 + i % 4), ("cascade", i % 9), ("equalize", i / 1000)), 4 + i % 5))
    cells = [Cell("s", network, setting, 0, "x", made) for setting in chosen]
    failed = Cell("s", network, Setting("olive", (("bits", 4),), 8), 0, "x", made)
    store, rng = Store(path), np.random.default_rng(0)
    store.db.execute("PRAGMA synchronous=OFF")
    store.add("s", [*cells, failed])
    store.db.execute("UPDATE cells SET state='running', owner=?, beat=0", (store.owner,))  # all at once: claims one by one take a minute
    lanes = {f"blocks.{i}.conv": (Counts(1000, 500, 20, 15 + i % 5, 100), 4) for i in range(layers)}
    fitted = {name: ("A4 r3+f3 c4", 0.25, 20.0 + i) for i, name in enumerate(lanes)}
    seen = tuple(replace(INPUT, name=name) for name in lanes)
    for cell in cells:
        columns = {"top1": (rng.random((500, 1)) < 0.9).astype(float), "sqnr": rng.random((500, 2))}
        ours = cell.setting.method != "float"
        found = Measured(columns, lanes, fitted) if ours else Measured(columns, inputs=seen if layers else ())
        store.finish({cell.key: (found, Cost(4.0, 1.0, 4.0, 8), 1.0, dict(made))})
    store.fail(failed.key, HOSTILE)
    store.close()
    return path


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `overq words…`, in this process."""
    monkeypatch.setattr("sys.argv", ["overq", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    out = capsys.readouterr()
    return int(end.value.code or 0), out.out, out.err


@contextmanager
def chromium(**options: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page of the system's Chromium, and a list that what its console says goes to; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on the PATH")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options}).new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda request: said.append(f"asked for {request.url}") if not request.url.startswith(("file:", "data:", "blob:")) else None,
        )
        yield page, said
        browser.close()


def violations(page: Any) -> list[str]:
    """What axe-core finds wrong with the page as it stands. It may not load style sheets once more: from files it cannot."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page, options={"preload": False}).response["violations"]
    return [f"{each['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}" for each in found for node in each["nodes"][:3]]
