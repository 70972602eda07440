"""One cell: a network under one setting on one shard of images; and the key that stands for everything its result depends on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from overq.datafree import distill, observe_statistics
from overq.errors import InputError, ToolError
from overq.methods import Fitted
from overq.nn import Observations, observe
from overq.nn.bias import Outputs, observe_outputs
from overq.nn.chosen import ENOUGH
from overq.nn.peers import fit, install
from overq.study import digits
from overq.study.data import Batches, Images, Preprocess, from_tensors, open_images, some_of
from overq.study.fingerprint import fingerprint
from overq.study.models import load_model
from overq.study.plan import CORRECTION, RECIPE, Network, Setting, Study
from overq.study.recipes import install_recipe
from overq.study.version import commit, package, versions

DISTILLED = 64  # images that a recipe with source = "distilled" makes
ABSENT = "absent:"  # how the key of a cell begins whose network could not be opened


def tasks(study: Study) -> list[dict[str, Any]]:
    """Rows for `Store.add`, shards of one setting together. Those of a network whose files are absent have failed, with the reason."""
    return [row for network in study.networks for row in _tasks(study, network)]


def _tasks(study: Study, network: Network) -> Iterator[dict[str, Any]]:
    content, made, reason = "", versions(), None
    try:
        content = fingerprint(network)
    except (InputError, ToolError) as error:
        reason = str(error)
    for setting in study.settings:
        for shard in range(study.shards):
            task = {"network": asdict(network), "setting": asdict(setting), "shard": shard, "content": content, "versions": made}
            task |= {k: getattr(study, k) for k in ("shards", "limit", "samples", "batch_size", "seed")}
            what = {key: value for key, value in task.items() if key != "network"}
            key = hashlib.sha256(json.dumps([what, "" if content else network.name], sort_keys=True).encode()).hexdigest()
            yield {
                "key": key if content else ABSENT + key, "study": study.name, "network": network.name, "label": setting.label,
                "method": setting.family, "shard": shard, "task": json.dumps(task),
                "state": "failed" if reason else "pending", "reason": reason,
            }  # fmt: skip


def evaluate(text: str) -> tuple[np.ndarray, dict[str, float], float, dict[str, str]]:
    """Run the cell of a stored task: (bool [images] correct, cost, seconds, versions)."""
    begin, task = time.perf_counter(), json.loads(text)
    if task["versions"] != _running():
        raise InputError("the code or a library changed after the study was started; start it again")
    network = json.dumps([task["network"], task["samples"], task["batch_size"], task["seed"]])
    model, cost = _installed(network, json.dumps(task["setting"]), task["seed"])
    images = _open(_network(task["network"]))
    chosen = some_of(images, task["limit"] or images.count)
    positions = range(task["shard"], chosen.count, task["shards"])
    correct = np.zeros(len(positions), bool)
    with torch.no_grad():
        for start in range(0, len(positions), task["batch_size"]):
            part = positions[start : start + task["batch_size"]]
            scores = model(chosen.load(part))
            correct[start : start + len(part)] = scores.argmax(1).numpy() == chosen.labels_below(scores.shape[1])[list(part)]
    return correct, cost, time.perf_counter() - begin, _running() | {"commit": commit(package())}


@lru_cache(1)
def _running() -> dict[str, str]:
    """The versions that this process has loaded: a later change of the files does not reach it."""
    return versions()


@lru_cache(3)
def _observed(text: str, source: str) -> tuple[nn.Module, Observations, Iterable[torch.Tensor] | Observations]:
    """The float model, what its layers see, and the samples that show it (the observations themselves where there are none)."""
    entry, samples, batch, seed = json.loads(text)
    network = _network(entry)
    model = load_model(network.model, Path(network.weights) if network.weights else None)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions take 0.5 to 0.9 of the time
    if source == "statistics":
        seen = observe_statistics(model, seed=seed)
        return model, seen, seen
    if source == "distilled":
        made = distill(model, tuple(_open(network).load([0]).shape[1:]), DISTILLED, seed=seed).split(batch)
        return model, observe(model, made, seed=seed), made
    if network.calibration == "digits":
        images = from_tensors("digits", digits.images("calibration")[0])
    else:
        images = open_images(Path(network.calibration), None, _preprocess(network), labelled=False)
    batches = Batches(some_of(images, samples or images.count), batch)
    return model, observe(model, batches, seed=seed), batches


@lru_cache(1)
def _installed(network: str, setting_text: str, seed: int) -> tuple[nn.Module, dict[str, float]]:
    entry = json.loads(setting_text)
    setting = Setting(entry["method"], tuple((k, v) for k, v in entry["parameters"]), entry["weight_bits"])
    parameters = dict(setting.parameters)
    source = parameters.get("source", "images") if setting.method == RECIPE else "images"
    model, seen, samples = _observed(network, source)
    if setting.method == "float":
        return model, {"payload_bits": 32.0, "metadata_bits": 0.0, "activation_bits": 32.0, "weight_bits": 32, "extra_lanes": 0.0}
    corrected = parameters.get(CORRECTION, False)
    if setting.method == RECIPE:
        batch = _one_batch(network, source) if corrected else None
        result, cost = install_recipe(model, seen, samples, parameters, setting.weight_bits, seed, batch)
    else:
        fitted = _fitted(network, setting.method, json.dumps(entry["parameters"]))
        result, cost = install(model, seen, setting.build(), setting.weight_bits, fitted, _outputs(network) if corrected else None)
    return result, asdict(cost)


def _one_batch(network: str, source: str) -> list[torch.Tensor]:
    """What bias correction runs."""
    samples = _observed(network, source)[2]
    if isinstance(samples, Batches):
        chosen = some_of(samples.images, ENOUGH)
        return [chosen.load(range(chosen.count))]
    assert isinstance(samples, tuple)  # distilled; statistics have no samples, and are refused with bias correction
    return [torch.cat(samples)]


@lru_cache(1)
def _outputs(network: str) -> Outputs:
    """What bias correction holds the layers to."""
    return observe_outputs(_observed(network, "images")[0], _one_batch(network, "images"))


@lru_cache(4)
def _fitted(network: str, method: str, parameters: str) -> dict[str, Fitted]:
    """Steps of a method, which are the same for every weight width."""
    model, seen, _ = _observed(network, "images")
    return fit(model, seen, Setting(method, tuple((k, v) for k, v in json.loads(parameters))).build())


@lru_cache(2)
def _open(network: Network) -> Images:
    if network.images == "digits":
        return from_tensors("digits", *digits.images("test"))
    return open_images(Path(network.images), Path(network.labels) if network.labels else None, _preprocess(network))


def _network(entry: dict[str, Any]) -> Network:
    return Network(**{**entry, "mean": tuple(entry["mean"]), "std": tuple(entry["std"])})


def _preprocess(network: Network) -> Preprocess:
    return Preprocess(network.resize or None, network.crop or None, network.mean, network.std)
