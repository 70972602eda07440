"""Find a user's network: a factory in a package or a file, or a name that torchvision or timm knows; and its weights."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from overq.errors import InputError, ToolError
from overq.exchange import from_onnx
from overq.study.checkpoints import load_weights as load_weights  # where it always was
from overq.text import visible


def load_model(spec: str, weights: Path | None = None) -> nn.Module:
    """The network that `spec` names, in eval mode, with `weights` loaded where given.

    spec     package.module:factory, path/to/file.py:factory, path/to/network.onnx, torchvision:name, timm:name, or hf:directory with a
             model of `transformers`; a factory takes no argument
    weights  a .safetensors file, or a torch checkpoint of plain tensors (never unpickled beyond that)

    Raises InputError in one line for anything that does not fit; ToolError where torchvision or timm is not installed.
    """
    if spec.endswith(".onnx") and spec.isprintable():
        if weights is not None:
            raise InputError(f"--weights {weights}: an ONNX file has its own weights")
        return from_onnx(spec)
    if spec.startswith("hf:") and spec.isprintable():
        if weights is not None:
            raise InputError(f"--weights {weights}: a model directory has its own weights")
        from overq.study.huggingface import load_directory

        return load_directory(Path(spec.removeprefix("hf:")))
    source, colon, name = spec.rpartition(":")
    if not colon or not source or not name or not spec.isprintable():
        known = "package.module:factory, file.py:factory, network.onnx, torchvision:name, timm:name or hf:directory"
        raise InputError(f"--model {visible(spec)}: write {known}")
    if weights is not None and not weights.is_file():
        raise InputError(f"--weights {weights}: {'not a regular file' if weights.exists() else 'no such file'}")
    if source in ("torchvision", "timm"):
        model = _from_zoo(source, name, pretrained=weights is None)
    else:
        model = _call(_factory(source, name), spec)
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def _factory(source: str, name: str) -> Callable[[], Any]:
    if source.endswith(".py"):
        file = Path(source)
        if not file.is_file():
            raise InputError(f"--model {source}:{name}: no such file {source}")
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]  # a .py file always has a spec and a loader
        sys.path.insert(0, str(file.resolve().parent))  # so that the file finds its neighbours
        try:
            spec.loader.exec_module(module)  # type: ignore[union-attr]
        except (Exception, SystemExit) as error:  # scripts that were not meant to be imported end the process
            raise InputError(f"--model {source}:{name}: running {source} failed: {_line(error)}") from error
        finally:
            sys.path.pop(0)
    else:
        try:
            module = importlib.import_module(source)
        except (Exception, SystemExit) as error:
            raise InputError(f"--model {source}:{name}: cannot import {source}: {_line(error)}") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"--model {source}:{name}: {source} has no factory {name!r}; it has {', '.join(known[:8]) or 'none'}")
    return factory


def function_of(spec: str) -> Callable[..., Any]:
    """A function spelled as a factory is, file.py:function or package.module:function."""
    source, _, name = spec.rpartition(":")
    try:
        return _factory(source, name)
    except InputError as error:
        raise InputError(str(error).removeprefix("--model ")) from error


def _call(factory: Callable[[], Any], spec: str) -> nn.Module:
    try:
        model = factory()
    except (Exception, SystemExit) as error:
        raise InputError(f"--model {spec}: the factory failed: {_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"--model {spec}: the factory returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _from_zoo(zoo: str, name: str, *, pretrained: bool) -> nn.Module:
    try:
        library = importlib.import_module("torchvision.models" if zoo == "torchvision" else "timm")
    except Exception as error:  # also of a build that does not fit torch
        raise ToolError(
            f"--model {zoo}:{name} needs {zoo}, which cannot be imported ({_line(error)}): pip install 'overq[vision]'"
        ) from error
    try:
        if zoo == "torchvision":
            return library.get_model(name, weights="DEFAULT" if pretrained else None)
        return library.create_model(name, pretrained=pretrained)
    except Exception as error:  # unknown names and failed downloads, each with the library's own exception
        raise InputError(f"--model {zoo}:{name}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
