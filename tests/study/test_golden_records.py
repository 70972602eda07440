"""Steps, class scores and costs of the digits network are those of tests/study/records.json, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator

import golden_records
import pytest
import torch

STORED = json.loads(golden_records.FILE.read_text(encoding="utf-8"))
RECORDS = {record["name"]: record for record in STORED["records"]}
SLOW = ("recipe all", "recipe source=statistics")  # take half of the time


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_there_is_a_record_for_every_spec() -> None:
    assert {name: record["run"] for name, record in RECORDS.items()} == golden_records.specs()


def test_the_layers_saw_what_they_saw() -> None:
    _same_machine()
    assert golden_records.observed() == STORED["observed"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in RECORDS])
def test_a_record_is_what_it_was(name: str) -> None:
    _same_machine()
    record = RECORDS[name]
    assert golden_records.result(record["run"]) == {key: record[key] for key in ("steps", "scores", "classes", "cost")}


def _same_machine() -> None:
    here = golden_records.environment()
    if here != STORED["environment"]:
        pytest.skip(f"float convolutions round differently elsewhere: recorded on {STORED['environment']}, this is {here}")
