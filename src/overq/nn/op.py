"""The torch operator: overwrite an activation tensor, differentiable, compilable, exportable.

    y = overwrite(x, step, fmt, dim=1)      # E · step / 2^f of design section 1, in x's shape, dtype, device and layout

Gradient (straight-through, exact rule): dL/dx = dL/dy where the lane spells x up to rounding, and 0 where it clips x or
gave way.
In integers: it passes where -2^f <= floor(x · r) - 2·E < 2^f, the floor taken before saturation. So an outlier passes if and
only if it was served and two digits hold it; NaN and infinity do not pass. For `cascade=0` this is the rule of
torch.fake_quantize_per_tensor_affine. A step that the vectors give themselves counts as a constant.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from overq import kernels
from overq.errors import InputError
from overq.kernels.scale import Dynamic, Step, factors, factors_on_lanes
from overq.spec import Format

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def overwrite(x: Tensor, step: Step, fmt: Format, dim: int = 1) -> Tensor:
    """What hardware computing in `fmt` would see of x: E · step / 2^f.

    x     float16/32/64 or bfloat16, any layout; lanes along `dim` (negative counts from the end)
    step  Δ: one positive number for the whole tensor; or a tensor with one for each vector, of x's shape but 1 along `dim` (for each
          tile of `fmt.lanes` lanes: as many as there are tiles); or `Dynamic`, the rule by which each vector gives its own

    A NaN stays NaN and is a free lane to its neighbours; ±inf saturates. Arithmetic is float32 whatever x's dtype.
    Raises InputError for a tensor that is not floating point, a dim it does not have, or a step that is not positive or does not fit.
    """
    if not isinstance(x, Tensor):
        raise InputError(f"x must be a torch tensor, not {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise InputError(f"x must be float16, bfloat16, float32 or float64, not {str(x.dtype).removeprefix('torch.')}")
    if not -x.ndim <= dim < x.ndim:
        raise InputError(f"dim {dim} does not exist in a tensor of shape {tuple(x.shape)}")
    if isinstance(step, Dynamic):
        return torch.ops.overq.overwrite_dynamic(x, step.alpha, step.measure, step.tiles, _text(fmt), dim)
    if isinstance(step, Tensor):
        return torch.ops.overq.overwrite_each(x, step.detach(), _text(fmt), dim)
    return torch.ops.overq.overwrite(x, step, *_arguments(fmt), dim, fmt.evict)


def plainly(x: Tensor) -> bool:
    """Whether a kernel may be called without the operator around it, which takes longer than a token's vector: nothing follows x."""
    return (
        type(x) is Tensor
        and x.dtype in DTYPES
        and x.device.type == "cpu"
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._get_tracing_state() is None
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def overwrite_plainly(x: Tensor, step: Step, fmt: Format, dim: int) -> Tensor:
    """`overwrite` of what is `plainly`."""
    return _in_layout_of(x.detach(), step, fmt, dim)


def _arguments(fmt: Format) -> tuple[int, int, int, int, str, bool, int | None]:
    return fmt.bits, fmt.cascade, fmt.range_bits, fmt.fraction_bits, fmt.policy, fmt.signed, fmt.lanes


_format = lru_cache(maxsize=256)(Format)


@torch.library.custom_op("overq::overwrite", mutates_args=())
def _overwrite(
    x: Tensor,
    step: float,
    bits: int,
    cascade: int,
    range_bits: int,
    fraction_bits: int,
    policy: str,
    signed: bool,
    lanes: int | None,
    dim: int,
    evict: int = 0,
) -> Tensor:
    return _in_layout_of(x, step, _format(bits, cascade, range_bits, fraction_bits, policy, signed, lanes, evict), dim)


@_overwrite.register_fake
def _(x: Tensor, step: float, *_: Any) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("overq::unclipped", mutates_args=())
def _unclipped(
    x: Tensor,
    step: float,
    bits: int,
    cascade: int,
    range_bits: int,
    fraction_bits: int,
    policy: str,
    signed: bool,
    lanes: int | None,
    dim: int,
    evict: int = 0,
) -> Tensor:
    """bool, where the gradient passes."""
    fmt = _format(bits, cascade, range_bits, fraction_bits, policy, signed, lanes, evict)
    r, q = factors(step, fmt)
    return _passes(x.float(), step, float(r), float(q), fmt, dim % x.ndim)


@_unclipped.register_fake
def _(x: Tensor, step: float, *_: Any) -> Tensor:
    return torch.empty_like(x, dtype=torch.bool)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.arguments = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    passes = torch.ops.overq.unclipped(x, *ctx.arguments)
    return torch.where(passes, grad, torch.zeros_like(grad)), *([None] * len(ctx.arguments))


_overwrite.register_autograd(_backward, setup_context=_keep)


# A step for each vector ------------------------------------------------------------------------------
# These take the format as text, since an operator's arguments are numbers and strings: its fields in order.


def _text(fmt: Format) -> str:
    return f"{fmt.bits} {fmt.cascade} {fmt.range_bits} {fmt.fraction_bits} {fmt.policy} {int(fmt.signed)} {fmt.lanes or 0} {fmt.evict}"


@lru_cache(maxsize=256)
def _read(text: str) -> Format:
    bits, cascade, range_bits, fraction_bits, policy, signed, lanes, evict = text.split()
    return Format(int(bits), int(cascade), int(range_bits), int(fraction_bits), policy, signed == "1", int(lanes) or None, int(evict))


@torch.library.custom_op("overq::overwrite_each", mutates_args=())
def _overwrite_each(x: Tensor, step: Tensor, fmt: str, dim: int) -> Tensor:
    return _in_layout_of(x, step, _read(fmt), dim)


@torch.library.custom_op("overq::overwrite_dynamic", mutates_args=())
def _overwrite_dynamic(x: Tensor, alpha: float, measure: str, tiles: bool, fmt: str, dim: int) -> Tensor:
    return _in_layout_of(x, Dynamic(alpha, measure, tiles), _read(fmt), dim)


def _in_layout_of(x: Tensor, step: Step, fmt: Format, dim: int) -> Tensor:
    y = kernels.get("auto", fmt, x.device.type).overwrite(x, step, fmt, dim % x.ndim)
    return y if y.stride() == (out := torch.empty_like(x)).stride() else out.copy_(y)


@torch.library.custom_op("overq::unclipped_each", mutates_args=())
def _unclipped_each(x: Tensor, step: Tensor, fmt: str, dim: int) -> Tensor:
    """bool, where the gradient passes."""
    return _passes(x.float(), step, *factors_on_lanes(step, x, made := _read(fmt), dim), made, dim % x.ndim)


@torch.library.custom_op("overq::unclipped_dynamic", mutates_args=())
def _unclipped_dynamic(x: Tensor, alpha: float, measure: str, tiles: bool, fmt: str, dim: int) -> Tensor:
    """bool, where the gradient passes."""
    step = Dynamic(alpha, measure, tiles)
    return _passes(x.float(), step, *factors_on_lanes(step, x, made := _read(fmt), dim), made, dim % x.ndim)


def _passes(x: Tensor, step: Step, r: Any, q: Any, fmt: Format, dim: int) -> Tensor:
    E = (kernels.get("auto", fmt, x.device.type).overwrite(x, step, fmt, dim) / q).round()  # |E| < 2^24: exact
    off, half = (x * r).floor() - 2 * E, fmt.unit // 2
    return (off >= -half) & (off < half)


def _backward_each(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    unclipped = torch.ops.overq.unclipped_each if isinstance(ctx.arguments[0], Tensor) else torch.ops.overq.unclipped_dynamic
    return torch.where(unclipped(x, *ctx.arguments), grad, torch.zeros_like(grad)), *([None] * len(ctx.arguments))


for _made in (_overwrite_each, _overwrite_dynamic):
    _made.register_fake(lambda x, *_: torch.empty_like(x))
    _made.register_autograd(_backward_each, setup_context=_keep)
for _made in (_unclipped_each, _unclipped_dynamic):
    _made.register_fake(lambda x, *_: torch.empty_like(x, dtype=torch.bool))
