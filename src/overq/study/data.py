"""Labelled images from a folder, a labels table or an array file, streamed in batches."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from overq.errors import InputError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Short side to `resize` pixels (None leaves the size), center crop to `crop` (None: none), then (x / 255 - mean) / std per channel."""

    resize: int | None = 256
    crop: int | None = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or min(self.std) <= 0:
            raise InputError(f"mean {self.mean} and std {self.std} must both have 1 or 3 numbers, std positive")
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size is not None and size < 1:
                raise InputError(f"{name} must be at least 1 pixel, not {size}")

    def picture(self, path: Path) -> np.ndarray:
        """Uint8 [C, H, W] of one image file."""
        try:
            with Image.open(path) as opened:
                image = opened.convert("L" if len(self.mean) == 1 else "RGB")
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{path}: not a readable image ({type(error).__name__})") from error
        if self.resize is not None:
            scale = self.resize / min(image.size)
            size = tuple(max(1, round(side * scale)) for side in image.size)
            image = image.resize(size, Image.Resampling.BILINEAR)  # type: ignore[arg-type]
        if self.crop is not None:
            if min(image.size) < self.crop:
                raise InputError(
                    f"{path}: {image.width}x{image.height} pixels is smaller than the crop {self.crop}; use --resize or a smaller --crop"
                )
            left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
            image = image.crop((left, top, left + self.crop, top + self.crop))
        pixels = np.asarray(image)
        return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))

    def normalized(self, pixels: np.ndarray) -> torch.Tensor:
        """Uint8 [N, C, H, W] -> float32, normalized."""
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return torch.from_numpy(pixels).float().div_(255).sub_(mean).div_(std)


@dataclass(frozen=True)
class Images:
    """Images by position. `load` turns positions into a normalized float32 batch [n, C, H, W]; labels int64 [N], None if unlabelled."""

    name: str
    count: int
    load: Callable[[Sequence[int]], torch.Tensor]
    labels: np.ndarray | None = None

    def batches(self, size: int, positions: Sequence[int] | None = None) -> Iterator[torch.Tensor]:
        """Batches of at most `size` images, all or those at `positions`."""
        positions = range(self.count) if positions is None else positions
        for start in range(0, len(positions), size):
            yield self.load(positions[start : start + size])


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
    Every file's header is read now, so that a wrong one is found before work starts.
    """
    if path.suffix == ".npz" and path.is_file():
        return _from_npz(path, preprocess, labelled)
    if not path.is_dir():
        raise InputError(f"--images {path}: no such folder (or .npz file)")
    if not labelled:
        files, found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES), None
    elif labels is not None:
        files, found = _from_table(path, labels)
    else:
        files, found = _from_class_folders(path)
    if not files:
        raise InputError(f"{path}: no image found ({', '.join(sorted(SUFFIXES))})")
    for file in files:
        try:
            Image.open(file).close()
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"{file}: not a readable image ({type(error).__name__})") from error

    def load(positions: Sequence[int]) -> torch.Tensor:
        with ThreadPoolExecutor(4) as pool:
            pixels = list(pool.map(lambda i: preprocess.picture(files[i]), positions))
        for i, picture in zip(positions, pixels, strict=True):
            if picture.shape != pixels[0].shape:
                raise InputError(f"{files[i]}: {_size(picture)} pixels, but others have {_size(pixels[0])}: use --resize and --crop")
        return preprocess.normalized(np.stack(pixels))

    return Images(path.name, len(files), load, found)


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[2]}x{picture.shape[1]}"


def _from_npz(path: Path, preprocess: Preprocess, labelled: bool) -> Images:
    wanted = ("images", "labels") if labelled else ("images",)
    try:
        with np.load(path, allow_pickle=False) as stored:
            missing = [name for name in wanted if name not in stored.files]
            if missing:
                raise InputError(f"{path}: no array named {missing[0]!r}; it needs images (uint8 [N, C, H, W])" + " and labels" * labelled)
            pixels, labels = stored["images"], stored["labels"].astype(np.int64) if labelled else None
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable .npz file of plain arrays ({type(error).__name__})") from error
    channels = len(preprocess.mean)
    if pixels.ndim != 4 or pixels.dtype != np.uint8 or pixels.shape[1] != channels:
        raise InputError(f"{path}: images must be uint8 [N, {channels}, H, W], not {pixels.dtype} {list(pixels.shape)}")
    if labels is not None and labels.shape != pixels.shape[:1]:
        raise InputError(f"{path}: labels must be {[len(pixels)]}, one for each image, not {list(labels.shape)}")
    return Images(path.stem, len(pixels), lambda positions: preprocess.normalized(pixels[list(positions)]), labels)


def _from_class_folders(path: Path) -> tuple[list[Path], np.ndarray]:
    classes = sorted(p for p in path.iterdir() if p.is_dir())
    if not classes:
        raise InputError(f"--images {path}: no subfolder per class; give --labels CSV (columns file, label) for a flat folder")
    found = [(file, label) for label, folder in enumerate(classes) for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES]
    return [file for file, _ in found], np.array([label for _, label in found], np.int64)


def _from_table(path: Path, table: Path) -> tuple[list[Path], np.ndarray]:
    if not table.is_file():
        raise InputError(f"--labels {table}: no such file")
    files: list[Path] = []
    labels: list[int] = []
    with table.open(newline="", encoding="utf-8") as handle:
        try:
            rows = csv.DictReader(handle)
            if not {"file", "label"} <= set(rows.fieldnames or ()):
                raise InputError(f"--labels {table}: the first line must name the columns file and label, got {rows.fieldnames}")
            for row in rows:
                file = path / (row["file"] or "")
                if not file.is_file():
                    raise InputError(f"--labels {table}, line {rows.line_num}: no image {file}")
                if not (row["label"] or "").strip().isdecimal():
                    raise InputError(f"--labels {table}, line {rows.line_num}: label must be a class number, not {row['label']!r}")
                files.append(file)
                labels.append(int(row["label"]))
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"--labels {table}: not a readable CSV file ({error})") from error
    return files, np.array(labels, np.int64)


def some_of(images: Images, count: int) -> Images:
    """At most `count` of the images, evenly spread."""
    if count >= images.count:
        return images
    kept = [i * images.count // count for i in range(count)]
    labels = None if images.labels is None else images.labels[kept]
    return Images(images.name, count, lambda positions: images.load([kept[i] for i in positions]), labels)
