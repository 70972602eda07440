"""Small networks of every idiom, for whatever reads networks: which integer networks follow, and which they refuse, in which words."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Net = Any
Middle = Callable[[Net, torch.Tensor], torch.Tensor]


class Around(nn.Module):
    """a: 3 → 8 channels, what is to be tried, then mean over pixels and a classifier; parts for the middle to use."""

    def __init__(self, middle: Middle, **parts: nn.Module) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.h = nn.LazyLinear(5)
        self.bias, self.per_channel = nn.Parameter(torch.randn(8, 1, 1)), nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("spread", torch.rand(1, 8, 1, 1) + 0.5)
        self.register_buffer("grid", torch.rand(12, 12))
        self.gain = nn.Parameter(torch.randn(6))
        self.register_buffer("count", torch.zeros(()))
        self.middle, self.pixels = middle, True
        for name, part in parts.items():
            self.add_module(name, copy.deepcopy(part))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.middle(self, self.a(x))
        return self.h(y.mean((2, 3)) if self.pixels else y)


def trained(net: Net, x: torch.Tensor) -> nn.Module:
    """With batch norms that have statistics and scales of both signs, in eval mode."""
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.affine:
            module.weight.data = torch.randn(module.num_features) * 0.5 + 0.7
            module.bias.data = torch.randn(module.num_features) * 0.3
            module.momentum = None
    with torch.no_grad():
        net.pixels = net.middle(net.eval(), net.a(x)).ndim == 4
        net.train()(x)
    return net.eval()


def iadd(n: Net, y: torch.Tensor) -> torch.Tensor:
    z = y  # the very same tensor
    y += n.b(y)
    return y + z


def isub_of_input(n: Net, y: torch.Tensor) -> torch.Tensor:
    z = F.relu(y)
    z -= n.b(y)
    return n.b(z)


def identity_alias(n: Net, y: torch.Tensor) -> torch.Tensor:
    z = n.same(y)
    F.relu_(y)
    return n.b(z) + y


def two_relus(n: Net, y: torch.Tensor) -> torch.Tensor:
    n.relu(y)  # its result is thrown away, its effect is not
    return n.b(y) - y


def slice_of_changed(n: Net, y: torch.Tensor) -> torch.Tensor:
    z = y[:, :4]
    y.relu_()
    return torch.cat([z, y], 1)


def changed_slice(n: Net, y: torch.Tensor) -> torch.Tensor:
    y[:, :4].relu_()
    return n.b(y)


def changed_slice_alone(n: Net, y: torch.Tensor) -> torch.Tensor:
    return torch.cat([y.clone()[:, :4].relu_(), y[:, 4:]], 1)


def changed_view(n: Net, y: torch.Tensor) -> torch.Tensor:
    z = y.view(y.size(0), -1)
    z.relu_()
    return n.b(y)


def shuffled(n: Net, y: torch.Tensor) -> torch.Tensor:
    batch, channels, high, wide = y.size()
    y = y.view(batch, 2, channels // 2, high, wide)
    y = torch.transpose(y, 1, 2).contiguous()
    return n.b(F.relu(y.view(batch, -1, high, wide)))


def se_block(n: Net, y: torch.Tensor) -> torch.Tensor:
    batch, channels = y.shape[:2]
    gate = torch.sigmoid(n.fc(y.mean((2, 3)))).view(batch, channels, 1, 1)
    return y * gate


def inception(n: Net, y: torch.Tensor) -> torch.Tensor:
    y = F.relu(y)
    branches = [n.b(y), n.one(F.avg_pool2d(y, kernel_size=3, stride=1, padding=1)), F.max_pool2d(y, 3, stride=1, padding=1)]
    return torch.cat(branches, 1)


def dense_block(n: Net, y: torch.Tensor) -> torch.Tensor:
    features = [y]
    for norm, conv in ((n.norm1, n.conv1), (n.norm2, n.conv2)):
        features.append(conv(F.relu(norm(torch.cat(features, 1)))))
    return F.relu(n.norm3(torch.cat(features, 1)))


def inverted_residual(n: Net, y: torch.Tensor) -> torch.Tensor:
    return y + n.project(n.depth(n.expand(y)))


def group(out: int, *conv: Any, **options: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(*conv, bias=False, **options), nn.BatchNorm2d(out), nn.ReLU6(inplace=True))


def bottleneck() -> dict[str, nn.Module]:
    project = nn.Sequential(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))
    return {"expand": group(24, 8, 24, 1), "depth": group(24, 24, 24, 3, padding=1, groups=24), "project": project}


def dense() -> dict[str, nn.Module]:
    return {"norm1": nn.BatchNorm2d(8), "conv1": nn.Conv2d(8, 6, 3, padding=1, bias=False), "norm2": nn.BatchNorm2d(14),
            "conv2": nn.Conv2d(14, 6, 3, padding=1), "norm3": nn.BatchNorm2d(20)}  # fmt: skip


def chunked(n: Net, y: torch.Tensor) -> torch.Tensor:
    left, right = y.chunk(2, dim=1)
    return torch.cat([n.four(F.relu(left)), right], 1)


def relu_of_chunk(n: Net, y: torch.Tensor) -> torch.Tensor:
    left, right = y.chunk(2, 1)
    left.relu_()
    return n.b(torch.cat([left, right], 1)) + y


def split_unevenly(n: Net, y: torch.Tensor) -> torch.Tensor:
    first, second = torch.split(y, [3, 5], dim=1)
    return torch.cat((second.relu(), first), dim=1)


def unbound(n: Net, y: torch.Tensor) -> torch.Tensor:
    first, second = y.unflatten(1, (2, 4)).unbind(1)
    return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], 1)


def doubled_number(n: Net, y: torch.Tensor) -> torch.Tensor:
    return n.b((2 * y - 0.5) / 3 + 1)


def counting(n: Net, y: torch.Tensor) -> torch.Tensor:
    n.count += 1
    return n.b(y)


def changed_attribute(n: Net, y: torch.Tensor) -> torch.Tensor:
    z = y.clone().mT
    same = z
    z += n.b(y)
    return n.b(same)


def asserted(n: Net, y: torch.Tensor) -> torch.Tensor:
    assert y.shape[1] == 8, "eight channels"
    return n.b(y)


def data_dependent(n: Net, y: torch.Tensor) -> torch.Tensor:
    return n.b(y) if y.sum() > 0 else y


def assigned(n: Net, y: torch.Tensor) -> torch.Tensor:
    y[:, 0] = 0
    return n.b(y)


def hooked() -> dict[str, nn.Module]:
    relu = nn.ReLU()
    relu.register_forward_hook(lambda module, args, out: out * 2)
    return {"relu": relu}


def patched() -> dict[str, nn.Module]:
    relu = nn.ReLU()
    relu.forward = lambda x: x.abs()  # type: ignore[method-assign]
    return {"relu": relu}


class Leaky(nn.ReLU):
    """A subclass that is no ReLU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.where(input > 0, input, 0.1 * input)


class Doubled(nn.ReLU6):
    """A subclass whose forward can be read."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


FOLLOWED: dict[str, tuple[Middle, dict[str, nn.Module]]] = {
    "clamp(min=0)": (lambda n, y: n.b(y.clamp(min=0)), {}),
    "clamp(0, 1)": (lambda n, y: n.b(torch.clamp(y, 0, 1)), {}),
    "clip(max=)": (lambda n, y: n.b(y.clip(max=0.5)), {}),
    "clamp of negative bounds": (lambda n, y: n.b(torch.clip(y, min=-0.3, max=0.7)), {}),
    "clamp_min_": (lambda n, y: n.b(y.clamp_min_(0.0)), {}),
    "relu6": (lambda n, y: n.b(F.relu6(y * 8)), {}),
    "ReLU6 in place": (lambda n, y: n.b(n.relu(y)) + y, {"relu": nn.ReLU6(inplace=True)}),
    "Hardtanh": (lambda n, y: n.b(n.act(y)), {"act": nn.Hardtanh(-0.5, 0.25)}),
    "hardtanh positional": (lambda n, y: n.b(F.hardtanh(y, 0.0, 0.6)), {}),
    "Threshold(0, 0)": (lambda n, y: n.b(n.act(y)), {"act": nn.Threshold(0.0, 0.0)}),
    "a ReLU with a forward of its own": (lambda n, y: n.b(n.act(y)), {"act": Doubled()}),
    "in-place relu, then a residual sum": (lambda n, y: n.b(F.relu(y, inplace=True)) + y, {}),
    "in-place relu by position": (lambda n, y: n.b(F.relu(y, True)) + y, {}),
    "an in-place effect only": (two_relus, {"relu": nn.ReLU(inplace=True)}),
    "x += y with another name for x": (iadd, {}),
    "x -= y": (isub_of_input, {}),
    "add_": (lambda n, y: n.b(y.add_(n.b(y))) + y, {}),
    "an Identity's output is its input": (identity_alias, {"same": nn.Identity()}),
    "an evaluated dropout's output is its input": (identity_alias, {"same": nn.Dropout(0.3)}),
    "a changed slice that nothing else reads": (changed_slice_alone, {}),
    "add(alpha=2)": (lambda n, y: torch.add(n.b(y), y, alpha=2), {}),
    "add(alpha=0.3)": (lambda n, y: torch.add(n.b(y), y, alpha=0.3), {}),
    "sub(alpha=-1.5)": (lambda n, y: n.b(y).sub(y, alpha=-1.5), {}),
    "y + y": (lambda n, y: n.b(y + y), {}),
    "y - y.relu()": (lambda n, y: n.b(y - y.relu()), {}),
    "numbers": (doubled_number, {}),
    "residual scaling": (lambda n, y: F.relu(y + 0.17 * n.b(y)), {}),
    "1 - y, -y": (lambda n, y: n.b(1 - y) + (-y), {}),
    "a parameter added": (lambda n, y: n.b(y + n.bias), {}),
    "maximum with a parameter": (lambda n, y: n.b(torch.maximum(y, n.bias)), {}),
    "a parameter as factor": (lambda n, y: n.b(y * n.per_channel), {}),
    "normalized by buffers": (lambda n, y: n.b((y - n.bias) / n.spread), {}),
    "factors of tokens' features": (lambda n, y: (n.fc(y.flatten(2).transpose(1, 2)) * n.gain).mean(1), {"fc": nn.Linear(8, 6)}),
    "an attribute changed in place": (changed_attribute, {}),
    "a layer whose output nobody reads": (lambda n, y: (n.b(y), n.c(F.relu(y)))[1], {"c": nn.Conv2d(8, 4, 1)}),
    "an assertion on the shape": (asserted, {}),
    "nearest upsampling": (lambda n, y: n.b(n.up(F.interpolate(y, scale_factor=2))), {"up": nn.Upsample(scale_factor=(1, 3))}),
    "sum() of a list": (lambda n, y: sum([n.b(y), y, F.relu(y)]), {}),
    "a layer called twice": (lambda n, y: n.b(F.relu(n.b(F.relu(y)))), {}),
    "pad with ones": (lambda n, y: n.b(F.pad(F.relu(y), (1, 2, 0, 3), value=1.0)), {}),
    "pad reflect": (lambda n, y: n.b(F.pad(F.relu(y), (2, 1, 2, 2), mode="reflect")), {}),
    "pad replicate": (lambda n, y: n.b(F.pad(F.relu(y), [2, 1, 2, 3], "replicate")), {}),
    "pad circular": (lambda n, y: n.b(F.pad(F.relu(y), (2, 1, 3, 2), mode="circular")), {}),
    "pad with negative widths": (lambda n, y: n.b(F.pad(F.relu(y), (-1, 2, -2, -1))), {}),
    "pad of channels": (lambda n, y: F.pad(n.b(y), (0, 0, 0, 0, 2, 3)), {}),
    "pads as modules": (lambda n, y: n.b(n.p2(n.p1(y))), {"p1": nn.ReflectionPad2d(2), "p2": nn.ConstantPad2d((1, 0, 2, 1), -0.4)}),
    "ZeroPad2d": (lambda n, y: n.b(n.p(y)), {"p": nn.ZeroPad2d((0, 1, 0, 1))}),
    "padding='same'": (lambda n, y: n.c(y), {"c": nn.Conv2d(8, 4, (2, 4), padding="same", dilation=(1, 2))}),
    "padding='valid'": (lambda n, y: n.c(y), {"c": nn.Conv2d(8, 4, 3, padding="valid")}),
    "padding_mode reflect": (lambda n, y: n.c(y), {"c": nn.Conv2d(8, 4, 3, padding=2, padding_mode="reflect")}),
    "padding_mode circular": (lambda n, y: n.c(y), {"c": nn.Conv2d(8, 4, 4, padding="same", padding_mode="circular")}),
    "strided, dilated, grouped": (lambda n, y: n.c(y), {"c": nn.Conv2d(8, 12, (3, 2), (2, 3), (2, 0), (2, 1), groups=4)}),
    "depthwise": (lambda n, y: n.c(F.relu(y)), {"c": nn.Conv2d(8, 16, 3, padding=1, groups=8)}),
    "max pool, ceil mode": (lambda n, y: n.b(F.max_pool2d(y, 3, 2, ceil_mode=True)), {}),
    "max pool, dilated": (lambda n, y: n.b(n.pool(y)), {"pool": nn.MaxPool2d(3, 1, 1, dilation=2)}),
    "average pool": (lambda n, y: n.b(F.avg_pool2d(F.relu(y), 2)), {}),
    "average pool, border counted": (lambda n, y: n.b(F.avg_pool2d(y, 3, 2, 1)), {}),
    "average pool, border not counted": (lambda n, y: n.b(F.avg_pool2d(y, 3, 2, 1, count_include_pad=False)), {}),
    "average pool, ceil mode": (lambda n, y: n.b(F.avg_pool2d(y, 4, 3, ceil_mode=True)), {}),
    "average pool, all options": (lambda n, y: n.b(n.pool(y)), {"pool": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)}),
    "divisor_override=1": (lambda n, y: n.b(F.avg_pool2d(F.relu(y), 2, divisor_override=1)), {}),
    "divisor_override=7": (lambda n, y: n.b(n.pool(y)), {"pool": nn.AvgPool2d(3, 2, divisor_override=7)}),
    "adaptive average to 1": (lambda n, y: n.pool(n.b(y)).flatten(1), {"pool": nn.AdaptiveAvgPool2d(1)}),
    "adaptive average, uneven": (lambda n, y: n.b(F.adaptive_avg_pool2d(y, (5, 7))), {}),
    "adaptive average, None": (lambda n, y: n.b(F.adaptive_avg_pool2d(y, (None, 3))), {}),
    "adaptive maximum": (lambda n, y: n.b(n.pool(y)), {"pool": nn.AdaptiveMaxPool2d((5, 4))}),
    "mean(-1).mean(-1)": (lambda n, y: n.b(y).mean(-1).mean(-1), {}),
    "mean keepdim": (lambda n, y: n.b(y).mean(dim=[2, 3], keepdim=True).squeeze(-1).squeeze(-1), {}),
    "mean(axis=)": (lambda n, y: torch.mean(n.b(y), axis=(-2, -1)), {}),
    "sum over pixels": (lambda n, y: n.b(y).sum((2, 3)), {}),
    "amax over pixels": (lambda n, y: torch.amax(n.b(y), dim=(2, 3)), {}),
    "view(x.size(0), -1)": (lambda n, y: F.max_pool2d(n.b(y), 6).view(y.size(0), -1), {}),
    "reshape(len, …)": (lambda n, y: F.max_pool2d(n.b(y), 6).reshape(y.shape[0], 32), {}),
    "view(-1, n)": (lambda n, y: F.avg_pool2d(n.b(y), 6).view(-1, 32), {}),
    "Flatten and Unflatten": (lambda n, y: n.f(F.max_pool2d(n.b(y), 6)), {"f": nn.Sequential(nn.Flatten(), nn.Unflatten(1, (32,)))}),
    "flatten(2).mean(2)": (lambda n, y: n.b(y).flatten(2).mean(2), {}),
    "permute, Linear, permute": (lambda n, y: n.fc(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), {"fc": nn.Linear(8, 6)}),
    "transposed tokens": (lambda n, y: n.fc(y.flatten(2).transpose(1, 2)).mean(1), {"fc": nn.Linear(8, 6)}),
    "norm over tokens' features": (lambda n, y: n.bn(y.flatten(2)).mean(2), {"bn": nn.BatchNorm1d(8)}),
    "norm alone": (lambda n, y: n.b(F.relu(n.bn(F.relu(y)))), {"bn": nn.BatchNorm2d(8)}),
    "norm without scale and shift": (lambda n, y: n.bn(n.b(y)), {"bn": nn.BatchNorm2d(8, affine=False)}),
    "norm of a layer that others read": (lambda n, y: n.bn(y) + y, {"bn": nn.BatchNorm2d(8)}),
    "norm behind a ReLU": (lambda n, y: n.b(n.bn(F.relu(y))), {"bn": nn.BatchNorm2d(8)}),
    "two norms": (lambda n, y: n.bn2(n.bn1(n.b(y))), {"bn1": nn.BatchNorm2d(8), "bn2": nn.BatchNorm2d(8)}),
    "channel shuffle": (shuffled, {}),
    "ChannelShuffle": (lambda n, y: n.b(n.shuffle(y)), {"shuffle": nn.ChannelShuffle(4)}),
    "pixel shuffle": (lambda n, y: n.c(F.pixel_shuffle(y, 2)), {"c": nn.Conv2d(2, 8, 3)}),
    "PixelUnshuffle": (lambda n, y: n.c(n.s(y)), {"c": nn.Conv2d(32, 8, 1), "s": nn.PixelUnshuffle(2)}),
    "Inception branches": (inception, {"one": nn.Conv2d(8, 4, 1)}),
    "DenseNet": (dense_block, dense()),
    "MobileNetV2": (inverted_residual, bottleneck()),
    "chunk": (chunked, {"four": nn.Conv2d(4, 4, 1)}),
    "split": (split_unevenly, {}),
    "unbind, maximum, minimum": (unbound, {}),
    "strided slices": (lambda n, y: n.b(y[:, :, ::2, 1::3]), {}),
    "slices of channels": (lambda n, y: torch.cat([y[:, 5:], n.b(y)[:, ::2], y[..., :].narrow(1, 1, 2)], 1), {}),
    "cat along rows": (lambda n, y: n.b(torch.cat([y, F.relu(y)], dim=2)), {}),
    "cat along -1": (lambda n, y: n.b(torch.cat((y, y), -1)), {}),
    "stack": (lambda n, y: torch.stack([n.b(y), y], dim=2).flatten(1, 2), {}),
    "flip and roll": (lambda n, y: n.b(y.flip(3).roll(2, dims=1)), {}),
    "squeeze, unsqueeze, expand": (lambda n, y: n.b(y) + y.mean((2, 3)).unsqueeze(-1).unsqueeze(-1).expand(-1, -1, 12, 12), {}),
    "clone, contiguous, detach": (lambda n, y: n.b(y.clone().contiguous().detach()), {}),
    "a count that nothing reads": (counting, {}),
    "dropout": (lambda n, y: n.b(F.dropout2d(n.d(y), 0.2, n.training)), {"d": nn.Dropout2d(0.5)}),
    "dropout(p=0, training=True)": (lambda n, y: n.b(F.dropout(y, p=0.0)), {}),
    "what the output does not need": (lambda n, y: (torch.sigmoid(y), n.b(y))[1], {}),
    "Conv1d": (lambda n, y: n.c(F.relu(y.flatten(2))).mean(2), {"c": nn.Conv1d(8, 6, 3, 2, 1, padding_mode="replicate")}),
    "Conv1d and pools": (lambda n, y: n.c(F.max_pool1d(F.avg_pool1d(y.flatten(2), 3, 2, 1), 2)).mean(2),
        {"c": nn.Conv1d(8, 6, 3, groups=2)}),
    "adaptive 1d": (lambda n, y: F.adaptive_max_pool1d(n.p(n.c(y.flatten(2))), 1).flatten(1),
        {"c": nn.Conv1d(8, 6, 1), "p": nn.AdaptiveAvgPool1d(9)}),
}  # fmt: skip

REFUSED: dict[str, tuple[Middle, dict[str, nn.Module], str]] = {
    "sigmoid": (lambda n, y: n.b(torch.sigmoid(y)), {}, r"^operation 'sigmoid' \(sigmoid\) has no integer form"),
    "squeeze and excitation": (se_block, {"fc": nn.Linear(8, 8)}, r"^operation 'sigmoid' \(sigmoid\)"),
    "product of two tensors": (lambda n, y: n.b(y) * y, {},
        r"^operation 'mul' \(mul\) has no integer form: two tensors are combined by mul"),
    "factors for every pixel": (lambda n, y: n.b(y * n.grid), {}, r"^operation 'mul' \(mul\)"),
    "quotient of two tensors": (lambda n, y: n.b(y) / y, {}, r"^operation 'truediv' \(truediv\)"),
    "softmax": (lambda n, y: n.b(F.softmax(y, 1)), {}, r"^operation 'softmax' \(softmax\)"),
    "GELU": (lambda n, y: n.b(n.act(y)), {"act": nn.GELU()}, r"^operation 'act' \(GELU\)"),
    "Hardswish in place": (lambda n, y: n.b(n.act(y)), {"act": nn.Hardswish(inplace=True)}, r"^operation 'act' \(Hardswish\)"),
    "LayerNorm": (lambda n, y: n.b(n.norm(y)), {"norm": nn.LayerNorm(12)}, r"^operation 'norm' \(LayerNorm\)"),
    "GroupNorm": (lambda n, y: n.b(n.norm(y)), {"norm": nn.GroupNorm(2, 8)}, r"^operation 'norm' \(GroupNorm\)"),
    "batch norm without statistics": (lambda n, y: n.b(n.norm(y)), {"norm": nn.BatchNorm2d(8, track_running_stats=False)},
                                      r"^operation 'norm' \(BatchNorm2d\) has no integer form: batch norm 'norm' keeps no statistics"),
    "random dropout": (lambda n, y: n.b(F.dropout(y, 0.5, training=True)), {}, r"^operation 'dropout' \(dropout\).*training=True"),
    "random dropout by default": (lambda n, y: n.b(F.dropout(y)), {}, r"training=True: its values are random"),
    "return_indices": (lambda n, y: n.b(F.max_pool2d(y, 2, return_indices=True)[0]), {},
        r"^operation 'max_pool2d_with_indices' .* option return_indices=True"),
    "transposed convolution": (lambda n, y: n.b(n.up(y)), {"up": nn.ConvTranspose2d(8, 8, 2)}, r"^operation .up. \(QuantizedConv"),
    "a convolution as a function": (lambda n, y: F.conv2d(y, n.b.weight), {}, r"^operation 'conv2d' \(conv2d\)"),
    "bilinear": (lambda n, y: n.b(F.interpolate(y, scale_factor=2, mode="bilinear")), {}, r"^operation 'interpolate' \(interpolate\)"),
    "Upsample to a size": (lambda n, y: n.b(n.up(y)), {"up": nn.Upsample(size=(9, 9))},
                          r"^operation 'up' \(Upsample\) .*option size=\(9, 9\)"),
    "nearest by 1.5": (lambda n, y: n.b(F.interpolate(y, scale_factor=1.5)), {}, r"^operation 'interpolate' .*option scale_factor=1.5"),
    "a parameter divided by it": (lambda n, y: n.b(n.bias / y), {}, r"^operation 'truediv' \(truediv\)"),
    "matmul": (lambda n, y: n.b(torch.matmul(y, y.transpose(2, 3))), {}, r"^operation 'matmul' \(matmul\)"),
    "mean with a dtype": (lambda n, y: n.b(y).mean((2, 3), dtype=torch.float64).to(y.dtype), {},
        r"^operation 'mean' \(mean\).*option dtype=torch.float64"),
    "sum divided by an extent": (lambda n, y: n.b(y).sum((2, 3)) / (y.size(2) * y.size(3)), {}, r"^operation 'truediv' .*its operands are"),
    "rounding_mode": (lambda n, y: n.b(torch.div(y, 2, rounding_mode="floor")), {}, r"rounding_mode='floor'"),
    "a slice read after its tensor changed": (slice_of_changed, {},
        r"^operation 'cat' \(cat\).*reads 'getitem' after 'relu_' changed memory"),
    "a tensor read after its slice changed": (changed_slice, {},
        r"^operation 'b' \(QuantizedConv2d\).*reads 'a' after 'relu_' changed memory"),
    "a tensor read after its view changed": (changed_view, {}, r"reads 'a' after 'relu_' changed memory that it shares"),
    "a tensor read after its chunk changed": (relu_of_chunk, {}, r"reads .* after 'relu_' changed memory that it shares"),
    "a count that forward keeps": (lambda n, y: counting(n, y) + n.count, {}, r"^operation 'count' \(buffer\) .*forward assigns to it"),
    "data-dependent control flow": (data_dependent, {}, r"^the model cannot be traced"),
    "assignment to a slice": (assigned, {}, r"^the model cannot be traced"),
    "clamp with a tensor": (lambda n, y: n.b(torch.clamp(y, min=n.bias)), {},
        r"^operation 'clamp' .*option min is computed by the network"),
    "indexing with a tensor": (lambda n, y: n.b(y[torch.arange(3)]), {}, r"^operation"),
    "a hook on a ReLU": (lambda n, y: n.b(n.relu(y)), hooked(), r"^operation 'relu' \(ReLU\) .*forward hooks"),
    "a patched ReLU": (lambda n, y: n.b(n.relu(y)), patched(), r"^operation 'relu' \(ReLU\) .*its forward is patched"),
    "a ReLU that leaks": (lambda n, y: n.b(n.relu(y)), {"relu": Leaky()}, r"^operation 'gt' \(gt\)"),
    "out=": (lambda n, y: (torch.add(y, n.bias, out=y), n.b(y))[1], {}, r"^operation .*"),
    "a parameter changed in place": (lambda n, y: n.b(y + n.bias.clamp_(min=0)), {}, r"changes a parameter or buffer in place"),
    "an unknown operation in place": (lambda n, y: (y.exp_(), n.b(y))[1], {}, r"^operation 'exp_' \(exp_\)"),
    "a masked fill": (lambda n, y: n.b(y.masked_fill(y < 0, 0.0)), {}, r"^operation"),
}  # fmt: skip
