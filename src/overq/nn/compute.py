"""Where a model multiplies: the multiply-accumulates of every product of matrices that it runs, by module and operation.

Counted where PyTorch dispatches an operation, so layers, functions, `@`, einsum and attention all show, whoever calls them. Elementwise
arithmetic (norms, activations, gates, rotary embeddings) and look-ups are no products of matrices and are not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any
from weakref import ref

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates at one place.

    module, type  dotted name and class of the innermost module that ran them
    operation     "convolution", "linear" (a product with a weight), "matmul" (of two activations), "attention", "recurrent"
    weight        dotted name of the parameter multiplied with; "" where there is none, or it was computed on the way
    macs          how many
    """

    module: str
    type: str
    operation: str
    weight: str
    macs: int


@dataclass
class Count:
    """All work of a run; peak: values in its largest tensor; unknown: operations of others that took a weight and are not counted."""

    totals: dict[tuple[str, str, str, str], int] = field(default_factory=dict)
    peak: int = 0
    unknown: set[str] = field(default_factory=set)

    @property
    def work(self) -> tuple[Work, ...]:
        """In the order in which each was first run."""
        return tuple(Work(*key, macs) for key, macs in self.totals.items())


def _product(args: Any, out: Any, at: int = 0) -> int:
    """out = a @ b, batched or not: every output value takes as many as a has columns."""
    return out.numel() * args[at].size(-1)  # which a nested tensor has, too


def _convolution(args: Any, out: Any) -> int:
    x, weight, transposed = args[0], args[1], args[6]
    return (x if transposed else out).numel() * prod(weight.shape[1:])


def _attention(args: Any, out: Any) -> int:
    query, key, value = args[:3]
    return prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _recurrent(args: Any, out: Any) -> int:
    """Every time step of every sequence meets the input's and the state's weights once."""
    weights = args[1] if isinstance(args[1], (list, tuple)) else args[1:3]
    return prod(args[0].shape[:-1]) * sum(w.numel() for w in weights if w.ndim > 1)


# operation of PyTorch -> (what it is, its multiply-accumulates from arguments and result)
COUNTED: dict[str, tuple[str, Callable[[Any, Any], int]]] = {
    **dict.fromkeys(("mm", "bmm", "linear", "_grouped_mm", "_scaled_mm", "_int_mm"), ("matmul", _product)),
    **dict.fromkeys(("addmm", "baddbmm", "_addmm_activation"), ("matmul", lambda args, out: _product(args, out, 1))),
    **dict.fromkeys(("mv", "dot", "vdot"), ("matmul", lambda args, out: args[0].numel())),
    "addmv": ("matmul", lambda args, out: args[1].numel()),
    "addbmm": ("matmul", lambda args, out: args[1].numel() * args[2].shape[-1]),
    "_trilinear": ("matmul", lambda args, out: out.numel() * (args[1].shape[-2] * args[1].shape[-1] + args[1].shape[-1])),
    **dict.fromkeys(("convolution", "_convolution", "cudnn_convolution", "convolution_overrideable"), ("convolution", _convolution)),
    **dict.fromkeys(("mkldnn_rnn_layer", "_cudnn_rnn"), ("recurrent", _recurrent)),
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_fused_attention_overrideable", "_flash_attention_forward",
            "_efficient_attention_forward",
        ),
        ("attention", _attention),
    ),
}  # fmt: skip


class _Counting(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch would import its compiler for the first operation that is counted, which takes longer than most counts."""
        return False

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.count = Count()
        self.stack = [("", model)]
        self.derived: dict[int, tuple[Any, str]] = {}
        self.attention = False
        self.weights = {_memory(p): name for name, p in model.named_parameters() if not is_lazy(p) and p.ndim > 1 and _memory(p) > 0}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        space, _, name = func._schema.name.partition("::")
        if isinstance(out, torch.Tensor):
            self.count.peak = max(self.count.peak, out.numel())
            self._derive(name, args, out)
        if space == "aten" and name in COUNTED:
            operation, macs = COUNTED[name]
            self._add(operation, self._weight(args), macs(args, out))
        elif space not in ("aten", "prim", "prims", "profiler") and self._weight(args):
            self.count.unknown.add(f"{space}::{name}")
        return out

    def _add(self, operation: str, weight: str, macs: int) -> None:
        name, module = self.stack[-1]
        if operation == "matmul" and (weight or isinstance(module, nn.Linear)):
            operation = "linear"  # of a weight, or of one that a parametrization computed
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            operation = "recurrent"
        if operation == "matmul" and (self.attention or isinstance(module, nn.MultiheadAttention)):
            operation = "attention"  # of two activations, where PyTorch has no kernel that does both products
        key = (name, type(module).__name__, operation, weight)
        self.count.totals[key] = self.count.totals.get(key, 0) + macs

    def _weight(self, args: Any) -> str:
        """Name of the parameter among the operands, or of one that an operand was made of."""
        places = [_memory(a) for a in _tensors(args)]
        direct = (self.weights[place] for place in places if place in self.weights)
        return next(direct, "") or next((name for place in places if (name := self._made_of(place))), "")

    def _made_of(self, place: int) -> str:
        alive, name = self.derived.get(place, (None, ""))
        return name if alive is not None and alive() is not None else ""

    def _derive(self, name: str, args: Any, out: torch.Tensor) -> None:
        """Remember what is made of weights alone: copies, stacks, selections, scaled ones. Looking rows up gives activations."""
        operands = [a for a in _tensors(args) if a.is_floating_point()]
        if not operands or name in ("embedding", "embedding_bag") or _memory(out) in self.weights:
            return
        made_of = [self.weights.get(_memory(a)) or self._made_of(_memory(a)) for a in operands]
        if all(made_of):
            self.derived[_memory(out)] = (ref(out), made_of[0])


def _tensors(args: Any) -> list[torch.Tensor]:
    return [a for arg in args for a in (arg if isinstance(arg, (list, tuple)) else (arg,)) if isinstance(a, torch.Tensor)]


class _Uncompiled(_Counting):
    """Where functions that the model calls may be compiled: their compiler must not look into the count."""

    @torch._disable_dynamo
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_dispatch__(func, types, args, kwargs)


class _Attention(TorchFunctionMode):
    """Tells the count which products are attention's, where PyTorch spells it as products of matrices."""

    def __init__(self, counting: _Counting) -> None:
        super().__init__()
        self.counting = counting

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.counting.attention
        self.counting.attention = before or func is torch.nn.functional.scaled_dot_product_attention
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.counting.attention = before


def _memory(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # a tensor without memory of its own
        return 0


@contextmanager
def counted(model: nn.Module) -> Iterator[Count]:
    """Within the block, the work of the model's runs; the module that runs is known from hooks, which leave with the block."""
    counting = (_Uncompiled if "torch._dynamo" in sys.modules else _Counting)(model)
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # takes no hooks: what it runs is counted where it is called

        def enter(module: nn.Module, args: Any, name: str = name) -> None:
            counting.stack.append((name, module))

        def leave(module: nn.Module, args: Any, out: Any) -> None:
            counting.stack.pop()

        handles += [module.register_forward_pre_hook(enter, prepend=True), module.register_forward_hook(leave, always_call=True)]
    try:
        with _Attention(counting), counting:
            yield counting.count
    finally:
        for handle in handles:
            handle.remove()
