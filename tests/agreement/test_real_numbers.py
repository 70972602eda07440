"""The door from real numbers to integers and back, on every backend, dtype and memory layout."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
import torch
from body import definition
from test_backends import backend  # noqa: F401  (the fixture)

from overq.kernels.scale import factors
from overq.spec import Format, seen

FORMATS = [Format(4, 4, 4, 4), Format(3, 2, 3, 2, "largest", signed=True, lanes=6), Format.plain(8)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
LAYOUTS = {
    "NCHW": lambda x: x.contiguous(),
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "lanes outermost": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "sliced": lambda x: x.repeat(1, 1, 2, 1)[:, :, ::2],
    "small planes": lambda x: x.reshape(-1, x.shape[1], 2, 2),
    "one image": lambda x: x.reshape(1, x.shape[1], -1),
    "positions only": lambda x: x.reshape(-1, x.shape[1]),
}


def special_numbers(dtype: torch.dtype) -> torch.Tensor:
    """[6, 13, 4, 10] of every size float can have, zeros of both signs, subnormals, infinities, NaN."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((6, 13, 4, 10)) * 10.0 ** rng.uniform(-3, 1.2, (6, 13, 4, 10))
    x = np.where(rng.random(x.shape) < 0.3, 0, x)
    odd = np.array([math.nan, math.inf, -math.inf, -0.0, 1e-41, 3e38, -3e38, 65504, 6e-8, 1e300, -1e300])
    x = np.where(rng.random(x.shape) < 0.08, rng.choice(odd, x.shape), x)
    return torch.from_numpy(x).to(dtype)


def expected(x: torch.Tensor, step: float, fmt: Format) -> torch.Tensor:
    """The definition row by row, with the two products of design section 1.1 done in float32 by NumPy."""
    r, q = factors(step, fmt)
    wide = x.float().movedim(1, -1).contiguous().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        t = np.clip(np.nan_to_num(np.floor(wide * r), nan=0.0), fmt.t_min, fmt.t_max).astype(np.int64)
    E = definition(tuple(map(tuple, t.reshape(-1, t.shape[-1]).tolist())), fmt).E.reshape(t.shape)
    y = np.where(np.isnan(wide), np.float32(np.nan), E.astype(np.float32) * q)
    return torch.from_numpy(y).movedim(-1, 1).to(x.dtype)


@pytest.mark.parametrize("fmt", FORMATS, ids=["both", "largest signed tiled", "plain 8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_layout_and_dtype(backend: ModuleType, dtype: torch.dtype, fmt: Format) -> None:  # noqa: F811
    for name, arrange in LAYOUTS.items():
        x = arrange(special_numbers(dtype))
        before = x.clone()
        y = backend.overwrite(x, 0.07, fmt, 1)
        torch.testing.assert_close(y, expected(x, 0.07, fmt), rtol=0, atol=0, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}")
        assert y.dtype == dtype
        assert torch.equal(x.isnan(), before.isnan())
        assert torch.equal(x.nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize("fmt", FORMATS, ids=["both", "largest signed tiled", "plain 8"])
def test_counting_in_the_same_pass(backend: ModuleType, fmt: Format) -> None:  # noqa: F811
    x = special_numbers(torch.float32)
    y, counts = backend.overwrite_counted(x, 0.07, fmt, 1)
    r = float(factors(0.07, fmt)[0])
    t = (x * r).floor().nan_to_num(nan=0.0).clamp(*seen(fmt)).to(torch.int64).movedim(1, -1)
    assert counts == definition(tuple(map(tuple, t.reshape(-1, 13).tolist())), fmt).counts
    torch.testing.assert_close(y, expected(x, 0.07, fmt), rtol=0, atol=0, equal_nan=True)


def test_wide_integers_saturate_and_do_not_wrap(backend: ModuleType) -> None:  # noqa: F811
    t = np.array([[2**40, 0, -(2**40), 2**31, 0, 5]])
    digits, _ = backend.encode(t, Format(4, 1, 4, 4))
    assert np.asarray(digits).tolist() == [[15, 15, 0, 15, 15, 0]]
