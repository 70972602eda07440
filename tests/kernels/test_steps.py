"""A step for each vector or tile, given or found in it: the same definition as one step for the tensor, in every backend."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from overq import kernels
from overq.errors import FormatError, InputError
from overq.kernels import array
from overq.kernels.scale import Dynamic, steps
from overq.nn.op import DTYPES, overwrite
from overq.spec import Format

FORMATS = [Format(4, 4, signed=True), Format(3, 8, policy="largest", signed=True, lanes=16), Format(8, 2), Format.plain(4, signed=True)]
RULES = [Dynamic(0.21), Dynamic(0.3, "rms"), Dynamic(0.19, tiles=True), Dynamic(0.4, "rms", tiles=True)]


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Vectors of very different size; a zero one, a NaN, an infinity and a subnormal among them."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=random) * torch.exp(3 * torch.randn((*shape[:-1], 1), generator=random))
    x[0, 0], x[0, 1, 2], x[0, 2, 3], x[0, 2, 1] = 0, math.nan, -math.inf, 1e-40
    return x


def backends() -> list[Any]:
    return [kernels.get(name) for name in kernels.BACKENDS if kernels.available()[name] is None]


def one_by_one(x: torch.Tensor, step: torch.Tensor, fmt: Format) -> torch.Tensor:
    """Each vector (or tile) with its own static step. x [..., K], lanes last."""
    rows, each = x.reshape(-1, x.shape[-1]), step.reshape(-1, step.shape[-1]).tolist()
    groups = [row.split(fmt.lanes if len(own) > 1 and fmt.lanes else len(row)) for row, own in zip(rows, each, strict=True)]
    parts = [[array.overwrite(g, s, fmt) for g, s in zip(some, own, strict=True)] for some, own in zip(groups, each, strict=True)]
    return torch.stack([torch.cat(some) for some in parts]).reshape(x.shape)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.label)
def test_equal_steps_give_what_one_static_step_gives(fmt: Format, rule: Dynamic) -> None:
    x = tokens(2, 5, 70)
    step = steps(x, rule, fmt)
    assert step.shape == (2, 5, 5 if rule.tiles and fmt.lanes else 1)
    expected = one_by_one(x, step, fmt)
    lying = [(x, -1), (x.movedim(-1, 0).contiguous(), 0), (x.movedim(-1, 1), 1)]
    for backend in backends():
        for arranged, axis in lying:
            for given in (rule, step.movedim(-1, axis)):
                y = backend.overwrite(arranged, given, fmt, axis)
                assert torch.equal(y.movedim(axis, -1).nan_to_num(nan=7e7), expected.nan_to_num(nan=7e7)), (backend.__name__, axis)
        assert backend.overwrite_counted(x, rule, fmt)[1] == array.overwrite_counted(x, step, fmt)[1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_numpy(dtype: torch.dtype) -> None:
    x, fmt = tokens(2, 5, 70).to(dtype), FORMATS[1]
    for rule in RULES:
        expected = one_by_one(x, steps(x, rule, fmt), fmt)
        for backend in backends():
            assert torch.equal(backend.overwrite(x, rule, fmt).nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0)), backend.__name__
        if dtype != torch.bfloat16:
            np.testing.assert_array_equal(kernels.get("numba").overwrite(x.numpy(), rule, fmt), expected.numpy())


@pytest.mark.parametrize("lanes", [1, 63, 64, 65, 576, 1000])
def test_rms_is_the_sum_in_the_order_that_is_written_down(lanes: int) -> None:
    row = torch.randn(lanes, generator=torch.Generator().manual_seed(lanes)).tolist()
    columns = [0.0] * 64
    for lane, value in enumerate(row):
        columns[lane % 64] += value * value
    half = 32
    while half:
        columns = [columns[i] + columns[i + half] for i in range(half)]
        half //= 2
    expected = torch.tensor(np.float32(0.3) * np.float32(math.sqrt(columns[0] / lanes))).bfloat16().item()
    for make in (torch.tensor, lambda values: np.array(values, np.float32)):
        assert float(steps(make(row), Dynamic(0.3, "rms"), FORMATS[0])[0]) == expected


def test_a_vector_of_zeros_has_a_step_and_infinities_do_not_count() -> None:
    fmt = Format(4, 4, signed=True)
    x = torch.tensor([[0.0, 0.0, 0.0], [math.inf, 3.0, math.nan]])
    assert steps(x, Dynamic(0.5), fmt).tolist() == [[2.0**-100], [1.5]]
    assert overwrite(x, Dynamic(0.5), fmt)[0].tolist() == [0, 0, 0]
    assert steps(torch.full((1, 2), 3e38), Dynamic(2.0), fmt).tolist() == [[2.0**100]]
    assert overwrite(torch.ones(0, 4), Dynamic(0.5), fmt).shape == (0, 4)


@pytest.mark.parametrize("rule", [Dynamic(0.2), Dynamic(0.2, "rms", tiles=True)], ids=str)
def test_gradient_is_that_of_the_static_steps(rule: Dynamic) -> None:
    fmt, weight = FORMATS[1], torch.randn(3, 4, 40)
    gradients = []
    for given in (rule, "steps", "one by one"):
        x = torch.randn(3, 4, 40, generator=torch.Generator().manual_seed(1)).requires_grad_()
        step = steps(x.detach(), rule, fmt)
        if given == "one by one":
            size = fmt.lanes if rule.tiles else 40
            rows = [
                torch.cat([overwrite(part, s.item(), fmt, 0) for part, s in zip(row.split(size), own, strict=True)])
                for row, own in zip(x.reshape(-1, 40), step.reshape(12, -1), strict=True)
            ]
            y = torch.stack(rows).reshape(x.shape)
        else:
            y = overwrite(x, step if given == "steps" else given, fmt, -1)
        gradients.append(torch.autograd.grad((y * weight).sum(), x)[0])
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])
    assert 0 < (gradients[0] == 0).float().mean() < 1


class Layer(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return overwrite(overwrite(x * 2, Dynamic(0.2, "rms"), FORMATS[0], -1), x.abs().amax(-1, keepdim=True) / 5, FORMATS[0], -1)


def test_compiles_exports_and_keeps_the_operator_contract() -> None:
    x, layer = torch.randn(2, 3, 20), Layer()
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
    program = torch.export.export(layer, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    assert torch.equal(program.module()(x[:1].repeat(5, 1, 1)), layer(x[:1].repeat(5, 1, 1)))
    text = next(node.args[-2] for node in program.graph.nodes if "overwrite_each" in str(node.target))
    step = torch.ones(2, 3, 1)
    torch.library.opcheck(torch.ops.overq.overwrite_each.default, (x.requires_grad_(), step, text, -1))
    torch.library.opcheck(torch.ops.overq.overwrite_dynamic.default, (x, 0.1, "rms", False, text, -1))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (torch.ones(2, 3), r"^step of shape \(2, 3\) does not fit x of shape \(2, 3, 20\) with lanes along 2: one number for each vector "
                           r"is shape \(2, 3, 1\), for each tile 2 along 2$"),
        (torch.ones(2, 3, 3), r"^step of shape \(2, 3, 3\) does not fit x"),
        (torch.zeros(2, 3, 1), r"^step holds a number that is not positive or not within float32's normal range$"),
        (torch.full((1, 1, 1), math.nan), r"^step holds a number that is not positive"),
        (torch.full((2, 3, 1), 1e-38), r"^step holds a number that is not positive"),
    ],
)  # fmt: skip
def test_steps_that_do_not_fit_are_refused(step: torch.Tensor, message: str) -> None:
    for backend in backends():
        with pytest.raises(InputError, match=message):
            backend.overwrite(torch.ones(2, 3, 20), step, FORMATS[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), r"^Dynamic\.alpha must be a positive number, not 0\.0$"),
        ((math.nan,), r"^Dynamic\.alpha must be a positive number, not nan$"),
        ((True,), r"^Dynamic\.alpha must be a positive number, not True$"),
        ((1.0, "mean"), r"^Dynamic\.measure must be one of max, rms, not 'mean'$"),
        ((1.0, "max", 3), r"^Dynamic\.tiles must be True or False, not 3$"),
    ],
)
def test_rules_check_themselves(arguments: tuple, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Dynamic(*arguments)
