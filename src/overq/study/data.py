"""Labelled images from a folder, a labels table or an array file, streamed in batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from overq.errors import InputError, OverqWarning
from overq.study import pictures
from overq.study.folders import class_folders, images_below, names
from overq.study.labels import checked_array, read_table

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGEST_SIDE, MOST_PIXELS = 2**14, 2**28


@dataclass(frozen=True)
class Preprocess:
    """Short side to `resize` pixels (None leaves the size), center crop to `crop` (None: none), then (x / 255 - mean) / std per channel.

    The files themselves: see `overq.study.pictures`.
    """

    resize: int | None = 256
    crop: int | None = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not isinstance(values, tuple | list) or len(values) not in (1, 3) or len(self.std) != len(self.mean):
                raise InputError(f"mean {self.mean} and std {self.std} must both have 1 or 3 numbers")
            for value in values:
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise InputError(f"{name} must be finite numbers, std positive, not {value!r}")
                if abs(value) > 1:
                    raise InputError(f"{name} {value:g} is not of pixels scaled to 0 … 1: divide it by 255")
        if min(self.std) <= 0:
            raise InputError(f"mean {self.mean} and std {self.std} must both have 1 or 3 numbers, std positive")
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size is None:
                continue
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST_SIDE:
                raise InputError(f"{name} must be a whole number of pixels from 1 to {LARGEST_SIDE}, not {size!r}")

    def picture(self, path: Path) -> np.ndarray:
        """[C, H, W] of one image file in 0 … 255: uint8, or float32 where the file is grey with more than 8 bits."""
        image = pictures.read(path, len(self.mean))
        if self.resize is not None:
            scale = self.resize / min(image.size)
            size = tuple(max(1, round(side * scale)) for side in image.size)
            if math.prod(size) > MOST_PIXELS:
                raise InputError(
                    f"{path}: {image.width}x{image.height} pixels become {size[0]}x{size[1]} with a short side of {self.resize}"
                )
            image = image.resize(size, Image.Resampling.BILINEAR)  # type: ignore[arg-type]
        if self.crop is not None:
            if min(image.size) < self.crop:
                raise InputError(
                    f"{path}: {image.width}x{image.height} pixels is smaller than the crop {self.crop}; use --resize or a smaller --crop"
                )
            left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
            image = image.crop((left, top, left + self.crop, top + self.crop))
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            return np.repeat(pixels[None], len(self.mean), 0)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def normalized(self, pixels: np.ndarray) -> torch.Tensor:
        """[N, C, H, W] in 0 … 255 -> float32, normalized."""
        mean, std = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return torch.from_numpy(pixels).float().div_(255).sub_(mean).div_(std)


@dataclass(frozen=True)
class Images:
    """Images by position. `load` turns positions into a normalized float32 batch [n, C, H, W]; labels int64 [N], None if unlabelled.

    where  the file, and the line or place in it, that a position's label comes from
    """

    name: str
    count: int
    load: Callable[[Sequence[int]], torch.Tensor]
    labels: np.ndarray | None = None
    where: Callable[[int], str] = "image {}".format

    def batches(self, size: int, positions: Sequence[int] | None = None) -> Iterator[torch.Tensor]:
        """Batches of at most `size` images, all or those at `positions`."""
        positions = range(self.count) if positions is None else positions
        for start in range(0, len(positions), size):
            yield self.load(positions[start : start + size])

    def watched(self, tick: Callable[[int], None]) -> Images:
        """The same images; tick is called with how many have been loaded so far."""
        loaded = 0

        def load(positions: Sequence[int]) -> torch.Tensor:
            nonlocal loaded
            batch = self.load(positions)
            loaded += len(positions)
            tick(loaded)
            return batch

        return replace(self, load=load)

    def labels_below(self, classes: int) -> np.ndarray:
        """The labels; InputError with file and place where there are none or one is beyond a network of so many classes."""
        if self.labels is None:
            raise InputError(f"{self.name}: labelled images are needed")
        highest = int(self.labels.max())
        if highest >= classes:
            first = self.where(int(np.flatnonzero(self.labels >= classes)[0]))
            raise InputError(
                f"{self.name} has labels up to {highest}, but the network has {classes} classes (0 … {classes - 1}); first at {first}"
            )
        return self.labels


@dataclass(frozen=True)
class Batches:
    """Batches of at most `size` images, loaded anew each time they are iterated over."""

    images: Images
    size: int

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self.images.batches(self.size)


def from_tensors(name: str, x: torch.Tensor, labels: torch.Tensor | None = None) -> Images:
    """Images already in memory, normalized."""
    return Images(name, len(x), lambda positions: x[list(positions)], None if labels is None else labels.numpy())


def open_images(path: Path, labels: Path | None, preprocess: Preprocess, *, labelled: bool = True) -> Images:
    """A .npz file, a folder with one subfolder per class, a folder with a labels table, or (unlabelled) any folder of images.

    labels: CSV with the columns file and label; files relative to the folder.
    Every file's header is read now, so that a wrong one is found before work starts. What is left out or read in part is an
    OverqWarning: hidden and empty folders, pipes and devices, further frames, orientations.
    """
    if path.suffix.lower() == ".npz" and path.is_file():
        if labels is not None:
            raise InputError(f"--labels {labels}: {path} holds its own labels; leave --labels out")
        return _from_npz(path, preprocess, labelled)
    if not path.is_dir():
        raise InputError(f"--images {path}: no such folder (or .npz file)")
    found: np.ndarray | None
    where: Callable[[int], str]
    if not labelled:
        files, found, where = images_below(path), None, str
    elif labels is not None:
        files, found, lines = read_table(path, labels)
        where = lambda i: f"{labels}, line {lines[i]}"  # noqa: E731
    else:
        files, numbers = class_folders(path)
        found, where = np.array(numbers, np.int64), lambda i: str(files[i])
    if not files:
        raise InputError(f"{path}: no image found ({', '.join(sorted(pictures.SUFFIXES))})")
    _look(path, files)

    def load(positions: Sequence[int]) -> torch.Tensor:
        with ThreadPoolExecutor(4) as pool:
            pixels = list(pool.map(lambda i: preprocess.picture(files[i]), positions))
        for i, picture in zip(positions, pixels, strict=True):
            if picture.shape != pixels[0].shape:
                raise InputError(f"{files[i]}: {_size(picture)} pixels, but others have {_size(pixels[0])}: use --resize and --crop")
        return preprocess.normalized(np.stack(pixels))

    return Images(path.name, len(files), load, found, where)


def _look(root: Path, files: list[Path]) -> None:
    """Read every header; what is worth a word is said once for each kind."""
    kinds: dict[str, list[str]] = {}
    for file in files:
        for kind in pictures.look(file):
            kinds.setdefault(kind, []).append(str(file))
    for kind, which in kinds.items():
        warnings.warn(f"{root}: {kind}: {len(which)} of {len(files)} images ({names(which, root)})", OverqWarning, stacklevel=3)


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[2]}x{picture.shape[1]}"


def _from_npz(path: Path, preprocess: Preprocess, labelled: bool) -> Images:
    """Images as they are stored: sizes are not changed."""
    wanted = ("images", "labels") if labelled else ("images",)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in wanted if name in stored.files}
    except Exception as error:  # numpy, zipfile and zlib raise what damaged bytes lead them to
        raise InputError(f"{path}: not a readable .npz file of plain arrays ({type(error).__name__})") from error
    for name in wanted:
        if not isinstance(arrays.get(name), np.ndarray):  # what is no array in the file comes as bytes
            raise InputError(f"{path}: no array named {name!r}; it needs images (uint8 [N, C, H, W])" + " and labels" * labelled)
    pixels, channels = arrays["images"], len(preprocess.mean)
    if pixels.ndim != 4 or pixels.dtype != np.uint8 or pixels.shape[1] != channels:
        raise InputError(f"{path}: images must be uint8 [N, {channels}, H, W], not {pixels.dtype} {list(pixels.shape)}")
    if 0 in pixels.shape:
        raise InputError(f"{path}: no image: images is {list(pixels.shape)}")
    labels = checked_array(arrays["labels"], len(pixels), str(path)) if labelled else None
    return Images(path.stem, len(pixels), lambda at: preprocess.normalized(pixels[list(at)]), labels, lambda i: f"{path}, labels[{i}]")


def some_of(images: Images, count: int) -> Images:
    """At most `count` of the images, evenly spread."""
    return images if count >= images.count else at(images, [i * images.count // count for i in range(count)])


def at(images: Images, kept: Sequence[int]) -> Images:
    """The images at some positions."""
    labels = None if images.labels is None else images.labels[list(kept)]
    return Images(images.name, len(kept), lambda at: images.load([kept[i] for i in at]), labels, lambda i: images.where(kept[i]))
