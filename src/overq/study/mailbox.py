"""Cells through a folder that head and workers share, where a cluster offers no more than jobs and a network disk (Slurm, Kubernetes).

    open                      the head touches it while it runs; workers end when it is gone or old
    cells/ORDER-GROUP-KEY     a cell that waits, JSON; GROUP is the same for cells that share a network's steps
    taken/WORKER/…            the same file, moved here by the worker that runs it; the worker touches taken/WORKER/alive
    observers                 network -> pieces of its calibration, which workers share in observed/ (`board`)
    results/KEY               what came of it: a safetensors file, all else in its metadata

Every file appears whole, under its name, or not at all. Only the head has the store. Times are those of the disk that is shared.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from overq.errors import InputError
from overq.methods import Cost
from overq.study.cell import Cell
from overq.study.measure import joined, layers_to_json
from overq.study.signs import Sign, now_on
from overq.study.store import MAX_DEATHS
from overq.study.workers import Outcome

LOOK, SIGN, LEASE = 0.5, 10.0, 120.0  # seconds between two looks, between two signs of life, and after which there is none


class MailboxWorkers:
    """An executor whose workers are whoever runs `overq study work FOLDER`. One head at a time."""

    def __init__(self, folder: Path, observers: Mapping[str, int] | None = None) -> None:
        self._folder, self._under_way, self._order = opened(folder), dict[str, int](), 0
        self._seen = 0.0
        shutil.rmtree(folder / "observed", ignore_errors=True)
        for name in ("cells", "taken", "results", "observed"):
            (folder / name).mkdir(exist_ok=True)
        _write(folder / "observers", json.dumps(observers or {}).encode())
        for left in (folder / "cells").iterdir():  # of an earlier head
            left.unlink()
        self._sign = _touching(folder / "open")

    @property
    def slots(self) -> int:
        """Twice as many as there are workers, so that none waits for the head."""
        return max(1, 2 * sum(_lives(self._folder, sign) for sign in self._folder.glob("taken/*/alive")))

    def submit(self, key: str, cell: Cell) -> None:
        self._under_way[key] = 0
        if not any(self._folder.glob(f"taken/*/*-{key}")):  # a worker of an earlier head's may still be at it
            group = hashlib.sha256(f"{cell.network.name} {cell.setting.label.rpartition(':W')[0]}".encode()).hexdigest()[:12]
            self._order += 1
            _write(self._folder / "cells" / f"{self._order:07}-{group}-{key}", json.dumps(cell.to_json()).encode())

    def results(self) -> Iterator[Outcome]:
        time.sleep(LOOK)
        if time.monotonic() - self._seen > SIGN:
            self._seen = time.monotonic()
            yield from self._given_back()
        for file in sorted((self._folder / "results").iterdir()):
            if file.suffix == ".part":
                continue
            if self._under_way.pop(file.name, None) is not None:
                yield _read(file)
            file.unlink()

    def _given_back(self) -> Iterator[Outcome]:
        """What workers held that give no sign of life waits again; the third time the cell has failed."""
        for worker in (self._folder / "taken").iterdir():
            if not worker.is_dir() or _lives(self._folder, worker / "alive", worker):
                continue
            for held in worker.glob("*-*-*"):
                key = held.name.rpartition("-")[2]
                if key not in self._under_way:
                    held.unlink()
                elif self._under_way[key] + 1 < MAX_DEATHS:
                    self._under_way[key] += 1
                    held.rename(self._folder / "cells" / held.name)
                else:
                    del self._under_way[key]
                    held.unlink()
                    yield Outcome(key, reason=f"the worker process died, {MAX_DEATHS} times")
            with suppress(OSError):  # it lives after all, and has taken one more
                (worker / "alive").unlink(missing_ok=True)
                worker.rmdir()

    def close(self) -> None:
        self._sign.end()
        (self._folder / "open").unlink(missing_ok=True)
        (self._folder / "observers").unlink(missing_ok=True)
        shutil.rmtree(self._folder / "observed", ignore_errors=True)


def observers_of(folder: Path, network: str) -> int:
    """Pieces of the network's calibration, as the head said; 1 where it has ended. InputError where the file was damaged."""
    if not (folder / "observers").exists():
        return 1
    try:
        return int(json.loads((folder / "observers").read_bytes()).get(network, 1))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'observers'}: not what a head writes: {error}") from error


def work(folder: Path, run: Callable[[str, Cell], Outcome], wait: float = LEASE) -> int:
    """Run cells until the head has ended; how many. wait: seconds for a head to come."""
    opened(folder)
    mine = folder / "taken" / f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
    mine.mkdir(parents=True, exist_ok=True)
    sign, count, group, begin = _touching(mine / "alive"), 0, "", time.monotonic()
    try:
        while _lives(folder, folder / "open") or time.monotonic() - begin < wait:
            taken = _take(folder / "cells", mine, group)
            if taken is None:
                time.sleep(LOOK)
                continue
            _, group, key = taken.name.split("-")
            begin = time.monotonic() - wait  # the head came
            try:
                outcome = run(key, Cell.from_json(json.loads(taken.read_bytes())))
            except (InputError, ValueError) as error:
                outcome = Outcome(key, reason=f"InputError: {error}")
            _write(folder / "results" / key, _bytes(outcome))
            taken.unlink(missing_ok=True)  # absent where the head gave this worker up
            count += 1
    finally:
        sign.end()
        (mine / "alive").unlink(missing_ok=True)
        with suppress(OSError):  # what it still holds, the head gives to others once the sign is old
            mine.rmdir()
    return count


def opened(folder: Path) -> Path:
    """The folder; InputError where there is none or it belongs to another user: who writes into it says what code workers run."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; make one on a disk that the head and all workers share")
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise InputError(f"{folder}: belongs to another user")
    return folder


def _take(cells: Path, mine: Path, group: str) -> Path | None:
    """Move one waiting cell here, one of the group before others; no other worker can have it then."""
    for file in sorted(cells.glob("*-*-*"), key=lambda p: (p.name.split("-")[1] != group, p.name)):
        if file.suffix != ".part":
            with suppress(FileNotFoundError):  # somebody was faster
                return file.rename(mine / file.name)
    return None


def _touching(file: Path) -> Sign:
    def touch() -> None:
        with suppress(OSError):
            file.touch()

    file.touch()
    return Sign(SIGN, touch)


def _lives(folder: Path, *signs: Path) -> bool:
    """Whether one of `signs` was touched not long ago, by the clock of the disk that `folder` is on."""
    try:
        now = now_on(folder)
    except OSError:
        return False
    times = []
    for sign in signs:
        with suppress(OSError):
            times.append(sign.stat().st_mtime)
    return any(now - time < LEASE for time in times)


def _write(file: Path, content: bytes) -> None:
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(content)
    part.rename(file)


def _bytes(outcome: Outcome) -> bytes:
    if outcome.reason is not None:
        return to_bytes({}, {"reason": outcome.reason})
    found, cost, seconds, made_by = outcome.value
    rest = {"layers": layers_to_json(found), "cost": asdict(cost), "seconds": seconds, "made_by": made_by}
    return to_bytes(found.columns, {name: json.dumps(value) for name, value in rest.items()})


def _read(file: Path) -> Outcome:
    """A damaged file is the cell's failure."""
    try:
        with safe_open(file, "numpy") as stored:
            rest = stored.metadata()
            if "reason" in rest:
                return Outcome(file.name, reason=rest["reason"])
            columns = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # no mapping
        value = (
            joined(columns, json.loads(rest["layers"])),
            Cost(**json.loads(rest["cost"])),
            float(rest["seconds"]),
            json.loads(rest["made_by"]),
        )
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return Outcome(file.name, reason=f"InputError: the result file was damaged: {error}")
    return Outcome(file.name, value)
