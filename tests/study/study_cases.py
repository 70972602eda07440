"""Small studies with made-up results: a store as `overq study run` leaves it, without running anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from overq.cli import main
from overq.study.cell import tasks
from overq.study.plan import Network, Setting, Study, expand
from overq.study.store import Store

DIGITS = Network("digits", "overq.study.digits:network", "digits", "digits")
RIVALS = [{"method": "overq", "bits": [3, 4]}, {"method": "sparq", "bits": 4}]
STUDY = Study("s", (DIGITS,), expand(RIVALS, (8,)), shards=2)
COST = {"payload_bits": 4.0, "metadata_bits": 2.0, "activation_bits": 4.0, "weight_bits": 8, "extra_lanes": 0.0}
FLOAT_COST = {"payload_bits": 32.0, "metadata_bits": 0.0, "activation_bits": 32.0, "weight_bits": 32, "extra_lanes": 0.0}


def rows_of(study: Study, **versions: str) -> list[dict]:
    """The study's rows, as if this were other code."""
    rows = tasks(study)
    for row in rows:
        task = json.loads(row["task"])
        task["versions"] |= versions
        row |= {"key": row["key"] + str(versions), "task": json.dumps(task)}
    return rows


def fill(store: Store, rows: list[dict], right: Callable[[str, int], np.ndarray], cost: Callable[[Setting], dict]) -> None:
    """Record a result for every row: right(label, shard), cost(setting)."""
    store.add(rows)
    for _ in rows:
        row = store.claim({row["key"] for row in rows})
        assert row is not None
        task = json.loads(row["task"])
        entry = task["setting"]
        setting = Setting(entry["method"], tuple((k, v) for k, v in entry["parameters"]), entry["weight_bits"])
        store.finish(row["key"], right(row["label"], row["shard"]), cost(setting), 0.5, task["versions"] | {"commit": "abc"})


def first(count: int) -> np.ndarray:
    """Of ten images the first `count` are right."""
    return np.arange(10) < count


def cost_of(setting: Setting) -> dict:
    """OverQ stores two state bits more than its digits, SPARQ three and a half."""
    if setting.method == "float":
        return FLOAT_COST
    bits = dict(setting.parameters)["bits"]
    return COST | {"payload_bits": bits, "metadata_bits": {"overq": 2, "sparq": 3.5}.get(setting.method, 0), "activation_bits": bits}


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `overq words…`, in this process."""
    monkeypatch.setattr("sys.argv", ["overq", *map(str, words)])
    try:
        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err
