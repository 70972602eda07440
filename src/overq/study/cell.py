"""One cell: a network under one setting on one shard of images; and the key that stands for everything its result depends on."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import overq
from overq.errors import InputError
from overq.nn import Observations, observe
from overq.nn.peers import install
from overq.study import digits
from overq.study.data import Batches, Images, Preprocess, from_tensors, open_images, some_of
from overq.study.models import load_model
from overq.study.plan import RECIPE, Network, Setting, Study
from overq.study.recipes import install_recipe

CODE = (
    "spec",
    "kernels",
    "calib",
    "methods",
    "nn",
    "study/cell.py",
    "study/data.py",
    "study/digits.py",
    "study/models.py",
    "study/plan.py",
    "study/recipes.py",
)


def tasks(study: Study) -> list[dict[str, Any]]:
    """Rows for `Store.add`, shards of one setting together. A network whose files are absent raises InputError."""
    rows = []
    for network in study.networks:
        content = _fingerprint(network)
        for setting in study.settings:
            for shard in range(study.shards):
                task = {"network": asdict(network), "setting": asdict(setting), "shard": shard}
                task |= {k: getattr(study, k) for k in ("shards", "limit", "samples", "batch_size", "seed")}
                what = [content, task["setting"], [task[k] for k in ("shard", "shards", "limit", "samples", "batch_size", "seed")]]
                key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
                rows.append({
                    "key": key, "study": study.name, "network": network.name, "label": setting.label,
                    "method": setting.family, "shard": shard, "task": json.dumps(task),
                })  # fmt: skip
    return rows


def evaluate(text: str) -> tuple[np.ndarray, dict[str, float], float, dict[str, str]]:
    """Run the cell of a stored task: (bool [images] correct, cost, seconds, versions)."""
    begin, task = time.perf_counter(), json.loads(text)
    network = json.dumps([task["network"], task["samples"], task["batch_size"], task["seed"]])
    model, cost = _installed(network, json.dumps(task["setting"]), task["seed"])
    images = _open(_network(task["network"]))
    chosen = some_of(images, task["limit"] or images.count)
    assert chosen.labels is not None
    positions = range(task["shard"], chosen.count, task["shards"])
    correct = np.zeros(len(positions), bool)
    with torch.no_grad():
        for start in range(0, len(positions), task["batch_size"]):
            part = positions[start : start + task["batch_size"]]
            predicted = model(chosen.load(part)).argmax(1).numpy()
            correct[start : start + len(part)] = predicted == chosen.labels[list(part)]
    return correct, cost, time.perf_counter() - begin, versions()


def versions() -> dict[str, str]:
    return {
        "overq": overq.__version__,
        "code": code(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@lru_cache(1)
def code() -> str:
    """Hash of the source that decides a result."""
    root, digest = Path(overq.__file__).parent, hashlib.sha256()
    for part in CODE:
        for file in sorted((root / part).glob("*.py")) if (root / part).is_dir() else [root / part]:
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@lru_cache(2)
def _observed(text: str) -> tuple[nn.Module, Observations, Batches]:
    entry, samples, batch, seed = json.loads(text)
    network = _network(entry)
    model = load_model(network.model, Path(network.weights) if network.weights else None)
    if network.calibration == "digits":
        images = from_tensors("digits", digits.images("calibration")[0])
    else:
        images = open_images(Path(network.calibration), None, _preprocess(network), labelled=False)
    batches = Batches(some_of(images, samples or images.count), batch)
    return model, observe(model, batches, seed=seed), batches


@lru_cache(1)
def _installed(network: str, setting_text: str, seed: int) -> tuple[nn.Module, dict[str, float]]:
    model, seen, batches = _observed(network)
    entry = json.loads(setting_text)
    setting = Setting(entry["method"], tuple((k, v) for k, v in entry["parameters"]), entry["weight_bits"])
    if setting.method == "float":
        return model, {"payload_bits": 32.0, "metadata_bits": 0.0, "activation_bits": 32.0, "weight_bits": 32, "extra_lanes": 0.0}
    if setting.method == RECIPE:
        result, cost = install_recipe(model, seen, batches, dict(setting.parameters), setting.weight_bits, seed)
    else:
        result, cost = install(model, seen, setting.build(), setting.weight_bits)
    return result, asdict(cost)


@lru_cache(2)
def _open(network: Network) -> Images:
    if network.images == "digits":
        return from_tensors("digits", *digits.images("test"))
    return open_images(Path(network.images), Path(network.labels) if network.labels else None, _preprocess(network))


def _network(entry: dict[str, Any]) -> Network:
    return Network(**{**entry, "mean": tuple(entry["mean"]), "std": tuple(entry["std"])})


def _preprocess(network: Network) -> Preprocess:
    return Preprocess(network.resize or None, network.crop or None, network.mean, network.std)


def _fingerprint(network: Network) -> str:
    """Hash of architecture, weights, images, preprocessing, library and code; not of where the files lie."""
    model = load_model(network.model, Path(network.weights) if network.weights else None)
    digest = hashlib.sha256(repr(model).encode())
    for key, value in model.state_dict().items():
        digest.update(
            f"{key}{value.dtype}{list(value.shape)}".encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    source = network.model.rpartition(":")[0]
    for name in (network.images, network.labels, network.calibration, source if source.endswith(".py") else ""):
        if name and name != "digits":
            _hash_files(digest, Path(name))
    digest.update(repr([network.resize, network.crop, network.mean, network.std, network.images == "digits", versions()]).encode())
    return digest.hexdigest()


def _hash_files(digest: Any, path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(str(file.relative_to(path)).encode() if file != path else b"")
        try:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError:  # the cells that need it will say so
            digest.update(b"unreadable")
