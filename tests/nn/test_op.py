"""The torch operator: layout, dtypes, gradient, compile, export, autocast, errors."""

from __future__ import annotations

import math

import pytest
import torch

from overq.errors import InputError
from overq.nn.op import DTYPES, overwrite
from overq.spec import Format, effective, encode

FMT = Format(bits=3, cascade=2)
STEP = 0.125  # a power of two: every product below is exact


def definition(row: list[float], step: float, fmt: Format) -> list[float]:
    """One row through the plain Python definition."""
    t = [fmt.t_max if v == math.inf else fmt.t_min if v == -math.inf else math.floor(v * fmt.unit / step) for v in row]
    return [E * step / (1 << fmt.fraction_bits) for E in effective(encode(t, fmt), fmt)]


def activations(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (x * torch.where(torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.1, 4, 0.5)).relu()


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -3])
def test_any_dim_is_the_definition(dim: int) -> None:
    x = activations(3, 6, 4, 5)
    y = overwrite(x, STEP, FMT, dim)
    rows, expected = x.movedim(dim, -1).reshape(-1, x.shape[dim]), y.movedim(dim, -1).reshape(-1, x.shape[dim])
    for row, got in zip(rows.tolist(), expected.tolist(), strict=True):
        assert got == definition(row, STEP, FMT)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3),
    "permuted": lambda x: x.permute(3, 1, 0, 2),
    "sliced": lambda x: x[:, 1:, ::2, 1:-1],
    "expanded": lambda x: x[:, :, :1].expand(-1, -1, 3, -1),
    "one position": lambda x: x[:, :, 0, 0],
    "empty": lambda x: x[:0],
    "one lane": lambda x: x[:, :1],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_shape_dtype_and_strides_are_kept(layout: str, dtype: torch.dtype) -> None:
    x = LAYOUTS[layout](activations(2, 7, 4, 6).to(dtype))
    before = x.clone()
    y = overwrite(x, STEP, FMT)
    assert (y.shape, y.dtype, y.stride()) == (x.shape, dtype, torch.empty_like(x).stride())
    assert torch.equal(x, before)
    assert torch.equal(y, overwrite(x.float().contiguous(), STEP, FMT).to(dtype))


def test_nan_stays_and_is_a_free_lane_and_infinity_saturates() -> None:
    fmt = Format(bits=2, cascade=1, range_bits=2, fraction_bits=0)
    y = overwrite(torch.tensor([[5.0, math.nan, math.inf, 0.0, -math.inf, math.inf, 1.0]]), 1.0, fmt)
    assert y[0, :1].tolist() == [5.0]  # served by the NaN's lane
    assert math.isnan(y[0, 1])
    assert y[0, 2:].tolist() == [15.0, 0.0, 0.0, 3.0, 1.0]  # two digits, zero, clipped at zero, one digit, own value


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_passes_where_the_lane_spells_x_up_to_rounding(dtype: torch.dtype, signed: bool) -> None:
    fmt = FMT.with_(signed=signed)
    x = (activations(4, 9, 5) - 0.3 * signed).to(dtype).requires_grad_()
    weight = torch.randn(x.shape, dtype=dtype)
    (overwrite(x, STEP, fmt) * weight).sum().backward()
    wide = x.detach().float()
    y = overwrite(wide, STEP, fmt)
    passes = (y - wide).abs() <= STEP / 2
    assert passes.any()
    assert not passes.all()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(passes, weight, 0))


def test_gradient_of_plain_quantization_is_that_of_fake_quantize() -> None:
    ours = (activations(4, 9, 5) + 0.01).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    y = overwrite(ours, STEP, Format.plain(3))
    z = torch.fake_quantize_per_tensor_affine(theirs, STEP, 0, 0, 7)
    assert torch.equal(y, z)
    (gradient,), (expected,) = torch.autograd.grad(y.sum(), ours), torch.autograd.grad(z.sum(), theirs)
    assert torch.equal(gradient, expected)
    assert 0 < gradient.mean() < 1


def test_gradient_does_not_pass_nan_and_infinity() -> None:
    x = torch.tensor([[math.nan, math.inf, 1.0, -math.inf, 0.0]], requires_grad=True)
    overwrite(x, STEP, FMT).nansum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0, 0, 0, 1]]  # 1.0 is 8 steps: an outlier that found no zero within reach


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fmt, self.step = FMT, STEP
        self.conv = torch.nn.Conv2d(6, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(overwrite(x.relu(), self.step, self.fmt)).relu()


def test_compiles_without_a_graph_break_forward_and_backward() -> None:
    layer, x = Layer(), activations(2, 6, 8, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for batch in (x, activations(3, 6, 8, 8)):  # the second shape makes the batch dynamic
        batch.requires_grad_()
        y, expected = compiled(batch), layer(batch)
        assert torch.equal(y, expected)
        (ours,), (theirs,) = torch.autograd.grad(y.sum(), batch), torch.autograd.grad(expected.sum(), batch)
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_exports_with_a_dynamic_batch() -> None:
    layer = Layer().eval()
    program = torch.export.export(layer, (activations(2, 6, 8, 8),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    assert any(node.target is torch.ops.overq.overwrite.default for node in program.graph.nodes)
    x = activations(5, 6, 8, 8, seed=3)
    assert torch.equal(program.module()(x), layer(x))


def test_operator_contract() -> None:
    """torch's own checks: schema, fake kernel, autograd registration, dispatch under tracing."""
    x = activations(2, 6, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(torch.ops.overq.overwrite.default, (x, STEP, 3, 2, 3, 3, "first", False, None, 1))
    torch.library.opcheck(torch.ops.overq.unclipped.default, (x.detach(), STEP, 3, 2, 2, 1, "largest", True, 4, -1))


def test_autocast_and_no_grad() -> None:
    layer, x = Layer(), activations(2, 6, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        y = layer(x)
        assert overwrite(x, STEP, FMT).dtype == torch.float32
        assert overwrite(x.bfloat16(), STEP, FMT).dtype == torch.bfloat16
    assert y.dtype == torch.bfloat16
    assert not y.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], STEP, FMT), r"^x must be a torch tensor, not list$"),
        ((torch.arange(4), STEP, FMT, 0), r"^x must be float16, bfloat16, float32 or float64, not int64$"),
        ((torch.ones(4), STEP, FMT), r"^dim 1 does not exist in a tensor of shape \(4,\)$"),
        ((torch.ones(4, 4), STEP, FMT, -3), r"^dim -3 does not exist in a tensor of shape \(4, 4\)$"),
        ((torch.ones(4, 4), 0.0, FMT), r"^step must be a positive number within float32's normal range, not 0\.0$"),
        ((torch.ones(4, 4), math.nan, FMT), r"^step must be a positive number .* not nan$"),
        ((torch.ones(4, 4), 1e60, FMT), r"^step must be a positive number .* not 1e\+60$"),
    ],
)
def test_refuses_in_one_line(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        overwrite(*arguments)
