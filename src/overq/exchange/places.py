"""ONNX operators that put values elsewhere: shapes, slices, pads and sizes of images, as functions of PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from overq.exchange.spec import Built, Spec, UnsupportedError


def concat(spec: Spec) -> Built:
    axis = spec.get("axis")
    return lambda *values: torch.cat(values, axis)


def split(spec: Spec) -> Built:
    axis, sizes, count = spec.get("axis", 0), spec.ints(1, "split"), spec.get("num_outputs", spec.outputs)
    if sizes is not None:
        return lambda x, *_: torch.split(x, sizes, axis)
    return lambda x, *_: torch.chunk(x, count, axis)


def cut(spec: Spec) -> Built:
    if "starts" in spec.attributes:  # opset 9 and before
        raise UnsupportedError("opset 9 and before")

    def run(x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
        starts, ends = as_list(starts), as_list(ends)
        axes = list(range(len(starts))) if axes is None else as_list(axes)
        for start, end, axis, step in zip(starts, ends, axes, [1] * len(starts) if steps is None else as_list(steps), strict=True):
            if step < 0:
                size = x.shape[axis]
                places = range(size)[slice(start, None if end < -size else end, step)]
                x = x.index_select(axis, torch.tensor(list(places), device=x.device))
            else:
                cut = slice(start, end, step)
                whole = slice(None)
                x = x[(whole,) * axis + (cut,)] if axis >= 0 else x[(..., cut) + (whole,) * (-axis - 1)]
        return x

    return run


def as_list(value: Any) -> list[Any]:
    return value.flatten().tolist() if isinstance(value, Tensor) else value if isinstance(value, list) else [value]


def gather(spec: Spec) -> Built:
    axis, index = spec.get("axis", 0), spec.input(1)
    if isinstance(index, Tensor) and index.ndim == 0:
        place = int(index)
        return lambda x, _: x.select(axis, place)

    def run(x: Tensor, at: Tensor) -> Tensor:
        at = torch.where(at < 0, at + x.shape[axis], at)
        return x.index_select(axis, at.flatten()).unflatten(axis, at.shape) if at.ndim != 1 else x.index_select(axis, at)

    return run


def gather_elements(spec: Spec) -> Built:
    axis = spec.get("axis", 0)
    return lambda x, at: torch.gather(x, axis, torch.where(at < 0, at + x.shape[axis], at))


def reshape(spec: Spec) -> Built:
    spec.refuse_unless(not spec.get("allowzero", 0), "allowzero")

    def run(x: Tensor, shape: Any) -> Tensor:
        return x.reshape([x.shape[i] if isinstance(size, int) and size == 0 else size for i, size in enumerate(as_list(shape))])

    return run


def flatten(spec: Spec) -> Built:
    axis = spec.get("axis", 1)
    axis = axis if axis >= 0 else axis + spec.rank()
    if axis == 1:
        return nn.Flatten()
    return (lambda x: x.reshape(1, -1)) if axis == 0 else lambda x: x.flatten(0, axis - 1).flatten(1)


def transpose(spec: Spec) -> Built:
    order = spec.get("perm") or list(reversed(range(spec.rank())))
    return lambda x: x.permute(order)


def squeeze(spec: Spec) -> Built:
    axes = spec.ints(1, "axes")
    return (lambda x, *_: x.squeeze()) if axes is None else lambda x, *_: x.squeeze(tuple(axes))


def unsqueeze(spec: Spec) -> Built:
    axes = spec.ints(1, "axes") or []
    axes = axes if len(axes) == 1 else sorted(a % (spec.rank() + len(axes)) for a in axes)

    def run(x: Tensor, *_: Any) -> Tensor:
        for axis in axes:
            x = x.unsqueeze(axis)
        return x

    return run


PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def pad(spec: Spec) -> Built:
    mode, pads = PAD_MODES[spec.get("mode", "constant")], spec.ints(1, "pads") or []
    value = spec.get("value", 0.0) if spec.input(2) is None else float(spec.constant(2, "its value"))
    if spec.input(3) is not None:
        axes, rank = spec.ints(3, "axes") or [], spec.rank()
        full = [0] * 2 * rank
        for i, axis in enumerate(axes):
            full[axis % rank], full[axis % rank + rank] = pads[i], pads[i + len(axes)]
        pads = full
    count = len(pads) // 2
    widths = [w for i in reversed(range(count)) for w in (pads[i], pads[count + i])]
    while len(widths) > 2 and not any(widths[-2:]):
        widths = widths[:-2]
    return lambda x, *_: F.pad(x, widths, mode, value) if mode == "constant" else F.pad(x, widths, mode)


def resize(spec: Spec) -> Built:
    mode, coordinates = spec.get("mode", "nearest"), spec.get("coordinate_transformation_mode", "half_pixel")
    rounding, rank = spec.get("nearest_mode", "round_prefer_floor"), spec.rank()
    for option, usual in (("antialias", 0), ("axes", None), ("exclude_outside", 0), ("keep_aspect_ratio_policy", "stretch")):
        spec.refuse_unless(spec.get(option, usual) == usual, option)
    scales = spec.input(2)
    given = scales.tolist() if isinstance(scales, Tensor) and scales.numel() else None
    if given is None and spec.input(3) is None:
        raise UnsupportedError("its scales are computed while it runs")
    if given is not None and given[:2] != [1, 1]:
        raise UnsupportedError(f"it scales batch or channels by {given[:2]}")
    whole = given is not None and all(s == int(s) for s in given)
    options: dict[str, Any] = {"mode": mode}
    if mode == "nearest":
        exact = coordinates == "asymmetric" and rounding == "floor"
        halves = whole and coordinates in ("half_pixel", "pytorch_half_pixel") and rounding in ("round_prefer_floor", "round_prefer_ceil")
        twice = whole and coordinates == "asymmetric" and rounding == "round_prefer_floor" and given is not None and max(given) <= 2
        spec.refuse_unless(exact or halves or twice, "coordinate_transformation_mode" if rounding == "floor" else "nearest_mode")
    else:
        options["mode"] = {"linear": {3: "linear", 4: "bilinear", 5: "trilinear"}, "cubic": {4: "bicubic"}}.get(mode, {}).get(rank)
        spec.refuse_unless(options["mode"] is not None and (mode != "cubic" or spec.get("cubic_coeff_a", -0.75) == -0.75), "mode")
        spec.refuse_unless(coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners"), "coordinate_transformation_mode")
        options["align_corners"] = coordinates == "align_corners"

    def run(x: Tensor, *more: Any) -> Tensor:
        if given is not None:
            return F.interpolate(x, scale_factor=[int(s) if whole else s for s in given[2:]], **options)
        return F.interpolate(x, size=as_list(more[-1])[2:], **options)

    return run


def depth_to_space(spec: Spec) -> Built:
    size = spec.get("blocksize")
    if spec.get("mode", "DCR") == "CRD":
        return nn.PixelShuffle(size)

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(n, c // size**2, h * size, w * size)

    return run


def space_to_depth(spec: Spec) -> Built:
    size = spec.get("blocksize")

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(n, c * size**2, h // size, w // size)

    return run


def expand(x: Tensor, shape: Any) -> Tensor:
    return x * torch.ones(as_list(shape), dtype=x.dtype, device=x.device)
