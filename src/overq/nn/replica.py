"""Copies of a float model that compute what it computes, and whose layers can be seen and replaced.

A copy that only runs borrows the model's weights: a large network's memory holds one of it, not one for each run.

`copy.deepcopy` alone refuses weights that a hook computes, keeps compiled code, and leaves two traps: PyTorch's fused path of
`nn.TransformerEncoderLayer` reads the weights and calls no layer, and hooks of old weight norm, spectral norm and pruning write weights
anew before each call.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from overq.errors import FidelityError
from overq.nn.attention import separate
from overq.nn.recurrent import unrolled


def replica(model: nn.Module, *, borrow: bool = False) -> nn.Module:
    """A copy in eval mode, uncompiled, that takes no fused path and calls the layers of attention and recurrence; weights are computed as
    in `model`.

    borrow: weights lie in the model's memory: to run the copy, not to write into them (see `unwritten`, `own`). Biases and buffers do not.
    """
    memo: dict[int, Any] = {id(held): lent for held, lent in _lent(model)} if borrow else {}
    for module in model.modules():
        for value in vars(module).values():  # a weight that a hook computed: deepcopy takes leaves only
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return unrolled(separate(unfused(_uncompiled(copy.deepcopy(model, memo))))).eval()


def ready(model: nn.Module, *, borrow: bool = False) -> nn.Module:
    """A `replica` whose weights are plain parameters with the values that the model computes with in eval mode."""
    result = replica(model, borrow=borrow)
    for module in result.modules():
        bake(module)
    return result


def _lent(model: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(tensor of the model, another tensor in the same memory) of what takes room: weights, and the integers of quantized layers."""
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter and parameter.ndim > 1:
            yield parameter, nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] == "weight_integers":
            yield buffer, buffer.detach()


def own(borrower: nn.Module, model: nn.Module) -> None:
    """Give a copy memory of its own for each parameter that it still borrows from `model`."""
    theirs = {storage._cdata for storage in map(_storage, model.parameters()) if storage}
    for parameter in borrower.parameters():
        if (storage := _storage(parameter)) and storage._cdata in theirs:
            parameter.data = parameter.detach().clone()


@contextmanager
def unwritten(model: nn.Module) -> Iterator[None]:
    """Within the block, copies that borrow from `model` run. FidelityError where that changed one of its weights."""
    before = _fingerprints(model)
    yield
    for name, now in _fingerprints(model).items():
        if now != before[name]:
            layer, _, weight = name.rpartition(".")
            raise written(layer, weight)


def written(layer: str, weight: str = "weight") -> FidelityError:
    """The error of a model that changes its own weights."""
    return FidelityError(f"layer {layer!r}: something writes into its {weight} while the model runs, which would undo its quantization")


def _fingerprints(model: nn.Module) -> dict[str, int]:
    """By name of a parameter; memory that several lie in is read once."""
    known: dict[int, int] = {}
    found = {}
    for name, parameter in model.named_parameters():
        if storage := _storage(parameter):
            if storage._cdata not in known:
                known[storage._cdata] = fingerprint(parameter)
            found[name] = known[storage._cdata]
    return found


def fingerprint(parameter: torch.Tensor) -> int:
    """Sum of the bit patterns of the memory that it lies in, as fast as that can be read: where values changed, most likely another.

    0 of what has no memory of the usual kind.
    """
    if (storage := _storage(parameter)) is None:
        return 0
    bytes_ = torch.empty(0, dtype=torch.uint8, device=parameter.device).set_(storage)
    whole = len(bytes_) // 8 * 8
    return int(bytes_[:whole].view(torch.int64).sum()) + int(bytes_[whole:].sum())


def _storage(tensor: torch.Tensor) -> Any:
    """The memory behind a plain parameter; None of any other."""
    plain = type(tensor) is nn.Parameter and tensor.layout == torch.strided and not tensor.is_meta
    return tensor.untyped_storage() if plain else None


def _uncompiled(model: nn.Module) -> nn.Module:
    """Without the wrapper of `torch.compile`, here and below."""
    compiled = torch._dynamo.eval_frame.OptimizedModule if "torch._dynamo" in sys.modules else ()
    while isinstance(model, compiled):
        model = model._orig_mod
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            while isinstance(child, compiled):
                parent._modules[name] = child = child._orig_mod
    return model


# Weights computed by hooks --------------------------------------------------------------------------


def computed(module: nn.Module) -> list[tuple[Any, str]]:
    """(what computes it, name) of each tensor of the module that old weight norm, spectral norm or pruning computes before a call."""
    found: list[tuple[Any, str]] = []
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, (WeightNorm, SpectralNorm)):
            found.append((hook, hook.name))
        elif isinstance(hook, prune.BasePruningMethod):
            found.append((hook, hook._tensor_name))
    return found


def bake(module: nn.Module) -> None:
    """Make what old and new weight norm, spectral norm, pruning and parametrizations compute a plain parameter, in place."""
    for hook, name in computed(module):
        with torch.no_grad():
            hook(module, None)  # the weight may be older than what it is computed from
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, name)
        else:
            prune.remove(module, name)
    if parametrize.is_parametrized(module):
        with torch.no_grad():
            values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}  # type: ignore[union-attr]
        module.__class__ = type(module).__bases__[0]
        del module.parametrizations
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value))


# PyTorch's fused paths ------------------------------------------------------------------------------


def unfused(model: nn.Module) -> nn.Module:
    """`model`, changed in place so that every `nn.TransformerEncoder(Layer)` in it calls its layers, in every mode."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # says "an activation that the fused kernel lacks"; nothing else reads it
        elif isinstance(module, nn.TransformerEncoder) and getattr(module, "use_nested_tensor", False):
            module.use_nested_tensor = False
            module.register_forward_hook(_blank_padding, with_kwargs=True)
    return model


def _blank_padding(encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> torch.Tensor | None:
    """What nested tensors, which layers of ours cannot take, do to the output: padded positions are zeros (then normed), not leftovers."""
    given = dict(zip(("src", "mask", "src_key_padding_mask", "is_causal"), args, strict=False)) | kwargs
    src, padding = given["src"], given.get("src_key_padding_mask")
    if padding is None or given.get("mask") is not None or src.dim() != 3 or encoder.layers[0].training or torch.is_autocast_enabled():
        return None
    if not torch.backends.mha.get_fastpath_enabled() or _differentiated(encoder, src):
        return None
    padded = padding if padding.dtype == torch.bool else padding != 0
    if getattr(encoder, "mask_check", True) and not _left_aligned(src, padded):
        return None
    blank = output.new_zeros(output.shape[-1])
    return torch.where(padded[..., None], blank if encoder.norm is None else encoder.norm(blank), output)


def _left_aligned(src: torch.Tensor, padded: torch.Tensor) -> bool:
    """As PyTorch asks; it does not make nested tensors while it compiles."""
    return not torch.compiler.is_compiling() and torch._nested_tensor_from_mask_left_aligned(src, padded.logical_not())


def _differentiated(encoder: Any, src: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and (src.requires_grad or any(p.requires_grad for p in encoder.layers[0].parameters()))
