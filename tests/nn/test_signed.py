"""Linear bottlenecks: an inverted residual block, whose expansion reads a signed tensor without any exact zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from overq.nn import Recipe, quantize, summary
from overq.spec import Format


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 up, depthwise 3x3, 1x1 down without activation, and the sum."""

    def __init__(self, channels: int = 16, hidden: int = 64) -> None:
        super().__init__()
        self.expand, self.project = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.expand(x))))
        return x + self.project(y)


def sqnr(x: torch.Tensor, fmt: Format) -> dict[str, float]:
    torch.manual_seed(0)
    recipe = Recipe(fmt, first=None, last=None)
    return {report.name: report.sqnr for report in summary(quantize(InvertedResidual().eval(), x, recipe))}


def heavy() -> torch.Tensor:
    """Student's t with 4 degrees of freedom: tails as a bottleneck's sums have them."""
    torch.manual_seed(1)
    return torch.distributions.StudentT(4.0).sample((8, 16, 12, 12))


def test_signed_is_found_layer_by_layer_and_depthwise_is_plain() -> None:
    torch.manual_seed(0)
    formats = {
        report.name: report.format for report in summary(quantize(InvertedResidual().eval(), heavy(), Recipe(first=None, last=None)))
    }
    assert formats["expand"] == Format(signed=True)
    assert formats["depthwise"] == Format.plain(4)
    assert formats["project"] == Format()


def test_heavy_tails_make_zeros_and_overwrite_pays() -> None:
    plain, overq = sqnr(heavy(), Format.plain(4)), sqnr(heavy(), Format(4, 4))
    assert overq["expand"] > plain["expand"] + 1
    assert overq["depthwise"] == plain["depthwise"]


def test_without_tails_zeros_are_rare_and_overwrite_gains_little() -> None:
    """Uniform values fill the range: the best step has about 1 in 16 values at zero and hardly anything to serve."""
    x = torch.rand(8, 16, 12, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1
    plain, served, both = (sqnr(x, fmt)["expand"] for fmt in (Format.plain(4), Format(4, 4, fraction_bits=0), Format(4, 4)))
    assert served == pytest.approx(plain, abs=1.0)
    assert plain <= both < plain + 2
