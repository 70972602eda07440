"""Which code made a result: a hash of the source that decides it, the commit it comes from, and the libraries' versions."""

from __future__ import annotations

import ast
import hashlib
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

import overq

# What can never change a cell's result. All else below overq/ is hashed, so a new file counts until it is named here.
DECIDES_NOTHING = (
    "__main__.py", "cli", "report", "compare.py", "records.py", "errors.py", "rtl", "sim", "kernels/fuzz.py",
    "nn/files.py",
    "study/accuracy.py", "study/cycles.py", "study/element.py", "study/language.py",
    "study/disk.py", "study/mailbox.py", "study/node.py", "study/ray_workers.py", "study/resources.py",
    "study/run.py", "study/store.py", "study/table.py",
    "study/version.py", "study/workers.py",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Of everything that a result depends on, as a process that starts now would run it."""
    return {
        "overq": overq.__version__,
        "code": code_hash(package()),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def package() -> Path:
    """The folder of the running overq."""
    return Path(overq.__file__).parent


def code_hash(root: Path) -> str:
    """Hash of the statements below `root` that decide results: comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".safetensors")):
        name = file.relative_to(root).as_posix()
        if not any(name == part or name.startswith(f"{part}/") for part in DECIDES_NOTHING):
            digest.update(name.encode() + (_statements(file.read_bytes()) if file.suffix == ".py" else file.read_bytes()))
    return digest.hexdigest()[:16]


def _statements(source: bytes) -> bytes:
    """The parsed program without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            del body[0]
    return ast.dump(tree).encode()


@lru_cache(1)
def commit(root: Path) -> str:
    """The commit that is checked out around `root`, with +changes where files below it differ; "" outside a checkout."""
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        tracked = _git(root, "ls-files", "--error-unmatch", "--", str(root / "__init__.py"))
        changes = _git(root, "status", "--porcelain", "--", str(root))
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{head}{'+changes' if changes else ''}" if tracked else ""


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=30)
    return result.stdout.strip()
