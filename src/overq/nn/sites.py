"""Quantized products that a model spells as functions: a module whose forward multiplies matrices itself, with its factors quantized.

The module is changed in place as a layer is: its class becomes a subclass whose `forward` watches what it calls. A weight's values are
written once, into its parameter; a factor that the model computes is quantized at the call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from overq.errors import InputError
from overq.methods import Fitted
from overq.nn.products import RUNNING, argument, multiplied, product_of
from overq.nn.shared import Shared
from overq.nn.spelled import lanes_of, spelled


@dataclass(frozen=True)
class Site:
    """A factor of a product in some module's forward.

    name    dotted, unlike any layer's: "<module>.<product><n>.<role>", or the parameter's name where the other factor is one
    module  dotted name of the innermost module that multiplies
    key     which of its calls, "matmul1": functions are counted apart; of a product with a parameter, the parameter's own name
    role    "first", "second", "query", "key", "weights", "value"; "input" beside a parameter
    dim     axis of the factor's vectors, counted from the end
    axis    of a parameter: the axis that is summed over; None otherwise
    """

    name: str
    module: str
    key: str
    role: str
    dim: int
    axis: int | None = None

    def weight(self, parameter: Tensor) -> Tensor:
        """A parameter as rows [R, K], K summed over."""
        assert self.axis is not None
        return parameter.detach().movedim(self.axis, -1).flatten(0, -2)

    def as_held(self, rows: Tensor, parameter: Tensor) -> Tensor:
        """The inverse of `weight`."""
        assert self.axis is not None
        return rows.view(parameter.movedim(self.axis, -1).shape).movedim(-1, self.axis).contiguous()


@dataclass
class Factor:
    """How one factor is quantized. off: it passes as it is."""

    site: Site
    fitted: Fitted
    off: bool = False
    shared: Shared | None = None

    def __post_init__(self) -> None:
        self.lanes = lanes_of(self.fitted)

    def __call__(self, x: Tensor) -> Tensor:
        if self.off or not x.numel():
            return x
        if self.shared is None:
            return self._overwritten(x)
        return self.shared.quantized(x, self.fitted, (), self._overwritten)

    def _overwritten(self, x: Tensor) -> Tensor:
        return spelled(x, self.fitted, self.lanes, self.site.dim)


@dataclass
class Calls:
    """The quantized products of one module.

    products  key -> role -> factor
    weights   the parameter's own name -> the other factor
    """

    products: dict[str, dict[str, Factor]] = field(default_factory=dict)
    weights: dict[str, Factor] = field(default_factory=dict)

    def factors(self) -> list[Factor]:
        return [*self.weights.values(), *(factor for roles in self.products.values() for factor in roles.values())]


class Multiplies(nn.Module):
    """A module whose own products are quantized; mixed in before its class."""

    overq_calls: Calls
    float_class: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> Any:
        made: Any = super().__reduce_ex__(max(2, int(protocol)))
        _, _, *state = made
        return (_blank, (self.float_class,), *state)


class _Mode(TorchFunctionMode):
    """One run of a module's forward. entered: keys and values came from a cache that holds them quantized."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.calls: Calls = module.overq_calls
        self.what = type(module).__name__
        self.counts: Counter[str] = Counter()
        self.entered = False
        if self.calls.weights and torch.compiler.is_compiling():
            raise InputError(f"a {self.what} whose weights are called as functions cannot be compiled or exported quantized")
        self.places = {p.untyped_storage()._cdata: n for n in self.calls.weights if (p := module._parameters[n]) is not None}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        product = product_of(func, args, kwargs) if RUNNING.calls is self else None
        if product is None:
            return func(*args, **kwargs)
        first, second = argument(product.first, args, kwargs), argument(product.second, args, kwargs)
        for role, held in (("first", second), ("second", first)):
            if self.places and (name := self.places.get(held.untyped_storage()._cdata)) is not None:
                return multiplied(func, args, kwargs, product, _only(role, self.calls.weights[name]))
        if any(isinstance(x, nn.Parameter) for x in (first, second)):
            return func(*args, **kwargs)
        key = f"{product.name}{self.counts[product.name]}"
        self.counts[product.name] += 1
        if not self.calls.products:
            return func(*args, **kwargs)
        if (roles := self.calls.products.get(key)) is None:
            raise InputError(f"a {self.what} multiplies in a way that calibration did not see: its {key!r}; calibrate on inputs like these")
        if not roles:
            return func(*args, **kwargs)
        return multiplied(func, args, kwargs, product, lambda role, x: self._factor(roles, role, x))

    def _factor(self, roles: dict[str, Factor], role: str, x: Tensor) -> Tensor:
        cached = self.entered and role in ("key", "value", "second")
        return x if cached or role not in roles else roles[role](x)


def _only(wanted: str, factor: Factor) -> Callable[[str, Tensor], Tensor]:
    return lambda role, x: factor(x) if role == wanted else x


@cache
def multiplying_class(cls: Any) -> Any:
    """The subclass of a module's class that quantizes what its forward multiplies; one for each class."""

    @wraps(cls.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        outer, mode = RUNNING.calls, _Mode(self)
        RUNNING.calls = mode
        try:
            with mode:
                return cls.forward(self, *args, **kwargs)
        finally:
            RUNNING.calls = outer

    names = {"__module__": cls.__module__, "__doc__": cls.__doc__, "float_class": cls, "forward": forward}
    return type(cls)(f"Quantized{cls.__name__}", (Multiplies, cls), names)


def _blank(cls: Any) -> Any:
    """How pickle and deepcopy begin a copy."""
    made = multiplying_class(cls)
    return made.__new__(made)


def convert_calls(module: nn.Module, calls: Calls) -> None:
    """Make the module itself one whose products are quantized, in place; its weights hold quantized values already."""
    module.overq_calls = calls  # type: ignore[assignment]
    cls: Any = type(module)
    module.__class__ = multiplying_class(cls)


def with_values(parameter: nn.Parameter, values: Tensor) -> nn.Parameter:
    """A parameter with those values, of the old one's dtype and device; the old one may be another module's, too."""
    return nn.Parameter(values.to(parameter.device, parameter.dtype), requires_grad=False)
