"""What a node of a cluster needs: resources from the study file, files from the head where its own are not the right ones."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import test_faults
from study_cases import DIGITS, command

from overq.errors import InputError
from overq.study import node
from overq.study.cell import Cell, cells_of
from overq.study.disk import Disk
from overq.study.evaluate import evaluate
from overq.study.node import run_cell
from overq.study.plan import read
from overq.study.resources import Resources, read_resources

folder = test_faults.folder
TABLE = """
[resources]
cpus = 2
[resources.big]
gpus = 0.5
memory = 10
"""


def test_resources_are_a_networks_own_or_those_for_all(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(TABLE)
    found = read_resources(tmp_path / "s.toml", ("big", "small"))
    assert found == {"big": Resources(2, 0.5, 10), "small": Resources(2)}
    assert found["big"].fit({"CPU": 16, "GPU": 2, "memory": 35e9}) == 3
    assert found["big"].fit({"CPU": 16}) == 0
    assert (found["small"].fit({"CPU": 7}), found["small"].threads, Resources(0.3).fit({"CPU": 0.9})) == (3, 2, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resources = 3", "[resources]: resources must be a table"),
        ("[resources]\ncores = 3", "[resources]: no key 'cores'; there are cpus, gpus, memory, observers"),
        ("[resources]\ncpus = -1", "[resources]: cpus must be a number from 0 on, not -1"),
        ("[resources]\ncpus = true", "[resources]: cpus must be a number from 0 on, not True"),
        ("[resources]\ncpus = 1.5", "[resources]: more than one core or graphics card must be a whole number, not 1.5"),
        ("[resources]\nobservers = 0", "[resources]: observers must be a whole number from 1 on, not 0"),
        ("[resources]\nobservers = 1.5", "[resources]: observers must be a whole number from 1 on, not 1.5"),
        ("[resources]\ncpus = 0", "[resources]: a cell needs cpus, or a part of one"),
        ("[resources.gone]\ncpus = 1", "[resources]: the study has no network 'gone', only net"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(InputError) as error:
        read_resources(tmp_path / "s.toml", ("net",))
    assert str(error.value) == f"{tmp_path}/s.toml: {words}"


def test_the_table_belongs_to_no_key(tmp_path: Path, capsys, monkeypatch) -> None:
    text = f"[[recipes]]\nbits = 3\n[[networks]]\nname = 'n'\nmodel = '{DIGITS.model}'\nimages = 'digits'\ncalibration = 'digits'\n"
    keys = []
    for more in ("", "[resources]\ncpus = 2\n"):
        (tmp_path / "s.toml").write_text(text + more)
        keys.append([cell.key for cell in cells_of(read(tmp_path / "s.toml"))[0]])
    assert keys[0] == keys[1]
    words = "study", "run", tmp_path / "s.toml", "--store", tmp_path / "s.sqlite", "--address", "auto"
    code, _, err = command(capsys, monkeypatch, *words)
    assert (code, err) == (2, "overq: --engine local takes no --address\n")


@dataclass(frozen=True)
class Head:
    """The head's disk from another machine: its folder has another name there."""

    real: Path
    seen: Path
    read_bytes: list[int] = field(default_factory=list, compare=False)

    def there(self, path: str) -> str:
        return path.replace(str(self.seen), str(self.real))

    def manifest(self, paths: tuple[str, ...]) -> list[list[tuple[str, int]]]:
        return Disk().manifest(tuple(map(self.there, paths)))

    def read(self, path: str, start: int, size: int) -> bytes:
        data = Disk().read(self.there(path), start, size)
        self.read_bytes.append(len(data))
        return data


@pytest.fixture
def away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Cell], Head]:
    """Cells of a study on the head, whose folder this machine lacks; and how to reach it."""
    nets = (folder / "nets.py").read_text().replace("def good():", "def good():\n    torch.manual_seed(SEED)\n   ")
    (folder / "nets.py").write_text("from beside import *\n" + nets)
    (folder / "beside.py").write_text("SEED = 1\n")
    (folder / "mine.py").write_text("def score(model, images):\n    return [1.0] * images.count\n")
    study = replace(test_faults.study(folder, "good", shards=2), measures=("top1", f"{folder}/mine.py:score"))
    cells, head = cells_of(study)[0], folder.with_name(f"{folder.name}-head")
    local = folder.with_name(f"{folder.name}-tmp")
    local.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(local))
    monkeypatch.setattr(node, "PIECE", 1000)
    folder.rename(head)
    return cells, Head(head, folder)


def test_a_node_without_the_files_gets_them_once_and_has_the_heads_result(away: tuple[list[Cell], Head]) -> None:
    cells, head = away
    got = [run_cell(cell.key, cell, head, "run", 1, "cpu")[0] for cell in cells]
    assert [outcome.reason for outcome in got] == [None, None]
    size, files = sum(head.read_bytes), len(head.read_bytes)
    assert size == sum(p.stat().st_size for p in head.real.rglob("*") if p.suffix in (".py", ".png")) + _twice(head)
    node._placed.cache_clear()  # as in another process, and another run
    assert run_cell(cells[0].key, cells[0], head, "later", 1, "cpu")[0].reason is None
    assert len(head.read_bytes) == files, "nothing travels again"
    shutil.copytree(head.real, head.seen)
    for cell, outcome in zip(cells, got, strict=True):
        found, wanted = outcome.value[0].columns, evaluate(cell.key, cell)[0].columns
        assert {name: values.tobytes() for name, values in found.items()} == {name: values.tobytes() for name, values in wanted.items()}


def _twice(head: Head) -> int:
    """The folder to calibrate on lies in the one to score, and each Python file brings its neighbours."""
    return sum(p.stat().st_size for p in (*(head.real / "images" / "b").iterdir(), *head.real.glob("*.py")))


def test_a_node_with_other_contents_at_the_same_place_does_not_use_them(away: tuple[list[Cell], Head]) -> None:
    cells, head = away
    shutil.copytree(head.real, head.seen)
    (head.seen / "nets.py").write_text((head.seen / "nets.py").read_text().replace("relu", "sigmoid"))
    assert run_cell(cells[0].key, cells[0], head, "run", 1, "cpu")[0].reason is None
    assert head.read_bytes


def test_a_reason_names_the_heads_file_and_other_contents_are_refused(away: tuple[list[Cell], Head]) -> None:
    cells, head = away
    broken = head.real / "images" / "a" / "0.png"
    broken.write_bytes(broken.read_bytes()[:200] + b"x" * 50)
    reason = run_cell(cells[0].key, cells[0], head, "run", 1, "cpu")[0].reason
    assert reason is not None
    assert reason.startswith("InputError: network or data on this node are not what the study was started with: ")
    study = replace(test_faults.study(head.real, "good"), measures=cells[0].measures[:1])
    (cell,) = cells_of(study)[0]
    moved = head.real.with_name(f"{head.real.name}-other")
    head.real.rename(moved)
    outcome, _ = run_cell(cell.key, cell, Head(moved, head.real), "run", 1, "cpu")
    assert outcome.reason == f"InputError: {head.real}/images/a/0.png: not a readable image (OSError)"
