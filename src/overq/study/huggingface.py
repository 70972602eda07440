"""A local model directory of `transformers`: its network and its tokenizer. Nothing is fetched, unpickled, or run that came with it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from overq.errors import InputError, ToolError

NEEDS = "needs transformers, which is not installed: pip install 'overq[lm]'"


def load_directory(directory: Path) -> nn.Module:
    """The network of a directory as `save_pretrained` writes it, or that holds one GGUF file; in eval mode, float32, without a cache.

    Weights are read from .safetensors, or from the GGUF file, whose quantized weights become the floats that they spell. A directory with
    pickled weights only, or whose network is code of its own (`auto_map`), is refused. `use_cache` is switched off, so that an answer
    holds scores and not the keys and values of every layer; generation switches it on for itself.

    InputError in one line for what does not fit; ToolError where `transformers` or `gguf` is not installed.
    """
    transformers = _transformers(directory)
    gguf = _gguf(directory)
    if gguf is not None and (missing := next((name for name in ("gguf", "accelerate") if find_spec(name) is None), None)):
        raise ToolError(f"--model hf:{directory}: {gguf.name} needs {missing}, which is not installed: pip install 'overq[lm]'")
    given: dict[str, Any] = {"use_safetensors": True} if gguf is None else {"gguf_file": gguf.name}
    name = "AutoModelForCausalLM" if gguf is not None else _architecture(directory)
    made: Any = getattr(transformers, name, None)
    known = isinstance(made, type) and issubclass(made, (transformers.PreTrainedModel, transformers.AutoModelForCausalLM))
    if not known:
        raise InputError(f"--model hf:{directory}: transformers {transformers.__version__} has no model {name!r}")
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    try:
        bars.disable_progress_bar()
        with redirect_stderr(io.StringIO()):  # bars of its own while it reads GGUF
            model = made.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False, dtype="float32", **given)
    except Exception as error:  # whatever the library says of files that it cannot read
        raise InputError(f"--model hf:{directory}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    finally:
        if shown:
            bars.enable_progress_bar()
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    return model.eval()


def encoder(directory: Path) -> Callable[[str], list[int]]:
    """Text -> token numbers as the directory's tokenizer has them, without special tokens."""
    transformers, gguf = _transformers(directory), _gguf(directory)
    given = {} if gguf is None else {"gguf_file": gguf.name}
    try:
        made: Any = transformers.AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False, **given)
    except Exception as error:
        raise InputError(f"hf:{directory}: no usable tokenizer: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error

    def encode(text: str) -> list[int]:
        return list(made(text, add_special_tokens=False, verbose=False)["input_ids"])

    return encode


def _transformers(directory: Path) -> Any:
    if not directory.is_dir():
        raise InputError(f"--model hf:{directory}: no such directory; models are read from local directories only")
    try:
        import transformers
    except ImportError:
        raise ToolError(f"--model hf:{directory} {NEEDS}") from None
    return transformers


def _gguf(directory: Path) -> Path | None:
    """The directory's GGUF file, where it has no .safetensors."""
    files = sorted(directory.glob("*.gguf"))
    if not files or any(directory.glob("*.safetensors")):
        return None
    if len(files) > 1:
        raise InputError(f"--model hf:{directory}: {len(files)} GGUF files, {files[0].name} and others: keep one in it")
    return files[0]


def _architecture(directory: Path) -> str:
    """The class that config.json names."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        names = config["architectures"]
        name = names[0]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"--model hf:{directory}: no config.json that names an architecture ({type(error).__name__}: {error})") from None
    if "auto_map" in config:
        raise InputError(f"--model hf:{directory}: its network is code of its own (auto_map), which is not run")
    if not isinstance(name, str) or not name.isidentifier():
        raise InputError(f"--model hf:{directory}: config.json names no architecture, but {name!r}")
    if not any(directory.glob("*.safetensors")):
        raise InputError(f"--model hf:{directory}: no .safetensors and no .gguf in it; pickled weights are not read")
    if "quantization_config" in config:
        raise InputError(f"--model hf:{directory}: its weights are quantized already (quantization_config): give the float model")
    return name
