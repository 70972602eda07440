"""What is noted of products that a model spells as functions while it runs on calibration samples: which they are, and their factors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from overq.nn.candidates import can_quantize
from overq.nn.products import Product, argument, multiplied, product_of, stored_dim
from overq.nn.sites import Site
from overq.nn.watch import Watch

READ_AS_THEY_ARE = (nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase)


class Functions(TorchFunctionMode):
    """Notes the products that modules other than layers spell as functions, into `found`, which is an `Observations`.

    A parameter's product counts where nothing else reads the parameter and one whole axis of it is summed over, so that its values can be
    replaced by quantized ones; what is no such product and no product of two activations stays float. products: whether to note the
    latter's factors.
    """

    def __init__(self, model: nn.Module, watch: Watch, found: Any, products: bool) -> None:
        super().__init__()
        self.model, self.watch, self.found, self.products = model, watch, found, products
        self.stack: list[tuple[str, nn.Module, Counter[str]]] = []
        self.layers = {id(m) for m in model.modules() if can_quantize(m)}
        self.weights: dict[int, tuple[str, str, nn.Parameter]] = {}
        for name, module in model.named_modules():
            for own, p in module.named_parameters(recurse=False):
                if p.ndim > 1 and p.is_floating_point() and p.numel():
                    self.weights[_storage(p)] = (name, own, p)
        for module in model.modules():  # also where another module holds it, too
            if id(module) in self.layers or isinstance(module, READ_AS_THEY_ARE):
                for p in module.parameters(recurse=False):
                    self.weights.pop(_storage(p), None)
        self.derived: dict[int, StorageWeakRef] = {}
        self.calls: dict[str, Counter[str]] = {}
        self.tried: set[str] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block, the model's products are noted; which module runs is known from hooks."""
        self.stack = [("", self.model, Counter())]
        handles: list[Any] = []
        for name, module in self.model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                handles.append(module.register_forward_pre_hook(self._enter(name), prepend=True))
                handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            self.stack.append((name, module, Counter()))

        return enter

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        name, _, counts = self.stack.pop()
        if self.calls.setdefault(name, counts) != counts:
            self.found.unsure[name] = "it multiplies activations another number of times in other calls"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, module, counts = self.stack[-1]
        if id(module) in self.layers:
            return func(*args, **kwargs)
        product = product_of(func, args, kwargs)
        if product is None:
            result = func(*args, **kwargs)
            self._follow(func, args, kwargs, result)
            return result
        factors = [argument(place, args, kwargs) for place in (product.first, product.second)]
        held = [self.weights.get(_storage(x)) for x in factors]
        if any(held):
            self._weighted(name, module, product, factors, held)
        elif not any(self._is_derived(x) or isinstance(x, nn.Parameter) for x in factors):
            key = f"{product.name}{counts[product.name]}"
            counts[product.name] += 1
            self.found.multiplying[name] = None
            if self.products:
                return self._both(name, key, product, func, args, kwargs)
        return func(*args, **kwargs)

    def _both(self, module: str, key: str, product: Product, func: Any, args: Any, kwargs: Any) -> Any:
        """A product of two activations."""
        dims = {"first": product.dims[0], "query": -1, "key": -1, "weights": -1, "value": -1}
        dims["second"] = stored_dim(argument(product.second, args, kwargs), product.dims[1])

        def seen(role: str, x: torch.Tensor) -> torch.Tensor:
            name = ".".join(filter(None, (module, key, role)))
            site = Site(name, module, key, role, dims[role])
            before = self.found.sites.setdefault(name, site)
            if before != site and min(x.shape[-2:]) > 1:
                self.found.unsure[module] = f"the vectors of {key!r}'s {role} factor lie along another axis in other calls"
            self.watch.see_factor(name, self.found.factors.setdefault(name, self.watch.new()), x, before.dim)
            return x

        return multiplied(func, args, kwargs, product, seen)

    def _weighted(self, module: str, owner: nn.Module, product: Product, factors: list[Any], held: list[Any]) -> None:
        """A product with a parameter."""
        at = 0 if held[0] else 1
        home, own, parameter = held[at]
        name = ".".join(filter(None, (home, own)))
        dims = list(product.dims)
        axis = _axis(parameter, factors[at], dims[at])
        self.tried.add(name)
        why = ""
        if all(held):
            why = "it is multiplied with another parameter"
        elif product.name == "attention":
            why = "attention reads it"
        elif owner._parameters.get(own) is not parameter:
            why = f"{module or 'the model'} reads it, which does not own it"
        elif "forward" in vars(owner):
            why = "the forward of its module is patched"
        elif axis is None:
            why = "it is not summed over one whole axis"
        else:
            site = Site(name, module, own, "input", dims[1 - at], axis)
            if self.found.sites.setdefault(name, site) != site:
                why = "it is summed over another axis in other calls"
        if why:
            self.found.unsure[name] = why
        elif name not in self.found.unsure:
            self.watch.see(name, factors[1 - at], dims[1 - at])

    def _follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Views of parameters are they; who computes something else of them needs them as they are."""
        tensors = _tensors((*args, *kwargs.values()))
        read = [self.weights[place] for x in tensors if (place := _storage(x)) in self.weights]
        if not read and not (self.derived and any(self._is_derived(x) for x in tensors)):
            return
        made = _tensors(result if isinstance(result, (list, tuple)) else (result,))
        if not made or all(_storage(x) in self.weights for x in made):
            return
        for home, own, _ in read:
            self.found.unsure[".".join(filter(None, (home, own)))] = f"{getattr(func, '__name__', func)} reads it, too"
        if all(_storage(x) in self.weights or self._is_derived(x) for x in tensors if x.is_floating_point()):
            self.derived.update((_storage(x), StorageWeakRef(x.untyped_storage())) for x in made)

    def _is_derived(self, x: torch.Tensor) -> bool:
        known = self.derived.get(_storage(x))
        return known is not None and not known.expired()

    def done(self) -> None:
        """Take back what cannot be quantized exactly."""
        found = self.found
        for name in [name for name in found.unsure if name not in self.tried and name not in found.multiplying]:
            del found.unsure[name]  # of no product
        for name, site in list(found.sites.items()):
            if name in found.unsure or (site.axis is None and site.module in found.unsure):
                del found.sites[name]
                for kept in (found.layers, found.readings, found.factors):
                    kept.pop(name, None)
        for reading in found.readings.values():
            for names in (reading.beside, reading.alike):
                names[:] = [name for name in names if name in found.readings]


def _tensors(values: Any) -> list[torch.Tensor]:
    return [x for value in values for x in (value if isinstance(value, (list, tuple)) else (value,)) if _is_plain(x)]


def _is_plain(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and not x.is_nested and x.layout == torch.strided


def _storage(x: torch.Tensor) -> int:
    return x.untyped_storage()._cdata if _is_plain(x) else 0


def _axis(parameter: torch.Tensor, view: torch.Tensor, dim: int) -> int | None:
    """Which axis of the parameter the view's axis is, whole; counted from the end. None where it is none, or cannot be told."""
    stride, extent = view.stride(dim), view.shape[dim]
    found = [a for a in range(parameter.ndim) if parameter.stride(a) == stride and parameter.shape[a] == extent]
    return found[0] - parameter.ndim if len(found) == 1 else None
