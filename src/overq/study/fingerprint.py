"""What a network is, for a cell's key: architecture, weights, images and preprocessing, wherever the files lie."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from overq.errors import InputError
from overq.study.models import load_model
from overq.study.plan import Network


def fingerprint(network: Network, measures: tuple[str, ...] = ()) -> str:
    """Hash of the contents, of the user's own measures too.

    InputError where a file is absent or the network cannot be built, ToolError where a library is."""
    model = load_model(network.model, Path(network.weights) if network.weights else None)
    digest = hashlib.sha256(repr(model).encode())
    for key, value in model.state_dict().items():
        raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        digest.update(f"{key}{value.dtype}{list(value.shape)}".encode() + raw)
    for name in (network.images, network.labels, network.calibration, network.model, *measures):
        source = name.rpartition(":")[0]
        if source.endswith(".py"):
            _hash_files(digest, Path(source))
        elif name and name != "digits" and name not in (network.model, *measures):
            _hash_files(digest, Path(name))
    digest.update(repr([network.resize, network.crop, network.mean, network.std, network.images == "digits"]).encode())
    return digest.hexdigest()


def _hash_files(digest: Any, path: Path) -> None:
    if not (path.is_file() or path.is_dir()):  # a pipe or device would be waited for
        raise InputError(f"{path}: no such file or folder")
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(str(file.relative_to(path)).encode() if file != path else b"")
        try:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError:  # the cells that need it will say so
            digest.update(b"unreadable")
