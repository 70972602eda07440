"""A tensor as the lanes of its quantized form spell it: by the kernels where the method is one of our number formats, else by itself."""

from __future__ import annotations

from typing import Any

import torch

from overq.kernels import scale
from overq.methods import Dynamic, Fitted
from overq.nn.layers import by_group
from overq.nn.op import overwrite, overwrite_plainly, plainly
from overq.spec import Format

Lanes = tuple[Format, float | scale.Dynamic]
AT_ONCE = 32  # images; some rival methods need ten times the memory of what they transform


def lanes_of(fitted: Fitted) -> Lanes | None:
    """Format and step of a method that is one of our number formats; the step may be one for each vector, or for each group of its lanes.

    A group is a tile then; None where the format has other tiles.
    """
    method, fmt, step = fitted.method, fitted.format, fitted.step
    if fmt is not None and step is not None:
        return fmt, step
    if not isinstance(method, Dynamic) or step is None or (fmt := method.of.format(fitted.signed)) is None:
        return None
    if method.group is None:
        return fmt, scale.Dynamic(float(step), method.by)
    return (fmt.with_(lanes=method.group), scale.Dynamic(float(step), method.by, tiles=True)) if fmt.lanes in (None, method.group) else None


def on_lanes(x: torch.Tensor, lanes: Lanes, dim: int, groups: int) -> tuple[torch.Tensor, Format, int]:
    """(x, format, dim) such that neither lanes nor a step cross a border between equal channel groups; x perhaps as a view."""
    fmt, step = lanes
    if groups > 1 and isinstance(step, scale.Dynamic):
        return x.unflatten(dim, (groups, -1)), fmt, dim
    return by_group(x, fmt, dim, groups)


def spelled(x: torch.Tensor, fitted: Fitted, lanes: Lanes | None, dim: int, groups: int = 1) -> torch.Tensor:
    """x as the lanes along `dim` spell it, lanes being `lanes_of` the fitted method; they cross no border between equal channel groups."""
    if lanes is None:
        return _through(fitted, x, dim, groups)
    step = lanes[1]
    grouped, fmt, dim = on_lanes(x, lanes, dim, groups)
    if x.dtype == torch.float64:
        return _unrounded(grouped, step, fmt, dim).reshape(x.shape)
    y = overwrite_plainly(grouped, step, fmt, dim) if plainly(grouped) else overwrite(grouped, step, fmt, dim)
    return y if y.shape == x.shape else y.reshape(x.shape)


def _unrounded(x: torch.Tensor, step: float | scale.Dynamic, fmt: Format, dim: int) -> torch.Tensor:
    """E · step / 2^f in float64, of the integers E that x's float32 gives: sums of it hold whatever their order, where float32's do not."""
    single = x.float()
    if isinstance(step, scale.Dynamic):
        product, back = scale.scaled(single, step, fmt, dim)
    else:
        rate, q = scale.factors(step, fmt)
        product, back = single * float(rate), torch.tensor(float(q))
    return overwrite(product, float(fmt.unit), fmt, dim).double() * (back.double() / 2)  # a step of 2^(f+1) gives 2 E


class _StraightThrough(torch.autograd.Function):
    """A rival's quantizer: gradients pass as if it were not there."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, fitted: Fitted, dim: int) -> torch.Tensor:
        return fitted(x.detach(), axis=dim)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None, None


@torch._disable_dynamo  # torch.compiler.disable would import the compiler here, which takes longer than all of overq
def _through(fitted: Fitted, x: torch.Tensor, dim: int, groups: int) -> torch.Tensor:
    """A method without a number format of ours on x, lanes along `dim`; lanes never cross a group."""
    grouped = x if groups == 1 else x.unflatten(dim, (groups, -1))
    parts = grouped.split(AT_ONCE) if grouped.ndim + dim > 0 else (grouped,)  # an unbatched input begins with its channels
    done = [_StraightThrough.apply(part, fitted, dim) for part in parts]
    return (done[0] if len(done) == 1 else torch.cat(done)).reshape(x.shape)
