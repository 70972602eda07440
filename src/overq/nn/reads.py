"""Uses of a layer that its call does not show: its weight read as in `F.linear(x, layer.weight)` or inside `nn.MultiheadAttention`, and
calls of the original layer out of a closure that copying the model does not follow.

Such a use sees no quantizer, and a reordered or equalized weight would make it compute something else: layers used so stay float.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from overq.nn.candidates import can_quantize

STRAY = "called through a reference to the original model, e.g. in a closure, that no copy follows"


class _Watch(TorchFunctionMode):
    """Notes who reads a watched parameter while no module that owns it is running."""

    def __init__(self, names: dict[int, list[str]], found: dict[str, str]) -> None:
        super().__init__()
        self.names, self.found = names, found
        self.running: dict[int, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in (*args, *(kwargs or {}).values()):
            for tensor in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(tensor, nn.Parameter) and id(tensor) in self.names and not self.running.get(id(tensor)) and _computes(result):
                    for name in self.names[id(tensor)]:
                        self.found.setdefault(name, f"its weight is read by {_called(func)}")
        return result


@contextmanager
def other_uses(model: nn.Module, original: nn.Module, found: dict[str, str]) -> Iterator[None]:
    """Within the block, while `model`, a copy of `original`, runs: layer name -> how it is used besides its own call, into `found`."""
    names: dict[int, list[str]] = {}
    strays: dict[int, str] = {}
    for owner in (model, original):
        for name, module in owner.named_modules():
            if can_quantize(module):
                names.setdefault(id(module.weight), []).append(name)
                if owner is original:
                    strays[id(module)] = name
    watch = _Watch(names, found)

    def stray(module: nn.Module, args: Any) -> None:
        if id(module) in strays:
            found[strays[id(module)]] = STRAY

    handles: list[Any] = [nn.modules.module.register_module_forward_pre_hook(stray)]
    for module in model.modules():
        if own := [id(p) for p in module._parameters.values() if p is not None and id(p) in names]:
            handles.append(module.register_forward_pre_hook(_counts(watch, own, 1), prepend=True))
            handles.append(module.register_forward_hook(_counts(watch, own, -1), always_call=True))
    try:
        with watch:
            yield
    finally:
        for handle in handles:
            handle.remove()


def _counts(watch: _Watch, parameters: list[int], by: int) -> Any:
    def hook(*_: Any) -> None:
        for parameter in parameters:
            watch.running[parameter] = watch.running.get(parameter, 0) + by

    return hook


def _computes(result: Any) -> bool:
    """Whether it is values; shape, dtype and the like are no use of a weight."""
    return isinstance(result, torch.Tensor) or (isinstance(result, (tuple, list)) and any(isinstance(r, torch.Tensor) for r in result))


def _called(func: Any) -> str:
    """The function's name; of an attribute such as `.T`, the attribute's."""
    name = getattr(func, "__name__", str(func))
    return str(getattr(getattr(func, "__self__", None), "__name__", name)) if name == "__get__" else name
