"""Networks that PyTorch's exporter writes: attention, a vision transformer, shape arithmetic as exporters write it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import overq
from overq.spec import Format

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx_ir")

from overq.exchange import from_onnx


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.norm, self.out = nn.Linear(16, 32), nn.Linear(32, 96), nn.LayerNorm(32), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        x = self.embed(x)
        q, k, v = self.qkv(self.norm(x)).view(batch, tokens, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1) @ v
        return x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, 32))


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 32, 4, 4), nn.Parameter(torch.randn(1, 1, 32))
        self.place, self.head = nn.Parameter(torch.randn(1, 17, 32)), nn.Linear(32, 5)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head(self.encoder(x)[:, 0])


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.Hardswish(), nn.AvgPool2d(2),
        nn.Upsample(scale_factor=2), nn.PReLU(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.Softmax(-1),
    )  # fmt: skip


NETWORKS = {
    "attention": (Attention, (3, 7, 16)),
    "vision transformer": (VisionTransformer, (3, 3, 16, 16)),
    "convolutions": (convolutions, (3, 3, 16, 16)),
}
CASES = [
    (name, opset) for name in NETWORKS for opset in (13, 17) if (name, opset) != ("vision transformer", 13)
]  # which has no such export


@pytest.mark.parametrize(("name", "opset"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_what_pytorch_exports_is_read_and_quantized(name: str, opset: int, tmp_path: Path) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, x, path = make().eval(), torch.randn(shape), tmp_path / "m.onnx"
    try:
        torch.onnx.export(model, (x,), str(path), dynamo=False, opset_version=opset, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    except (torch.onnx.errors.UnsupportedOperatorError, TypeError, ModuleNotFoundError) as error:
        pytest.skip(f"this PyTorch does not export it: {' '.join(str(error).split())[:80]}")
    network = from_onnx(path, x)
    assert network.notes == ()
    more = torch.cat([x, x.flip(0)])
    with torch.no_grad():
        assert torch.allclose(network(more), model(more), atol=1e-5)
    quantized = overq.quantize(network, more, overq.Recipe(Format.plain(8), first=None, last=None))
    assert len(overq.summary(quantized)) == sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in network.modules())
