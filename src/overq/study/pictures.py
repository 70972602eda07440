"""One image file to pixels: which files are read, what their values mean, and what is refused or worth a word.

Colours, palettes and transparency become what torchvision's loader makes of them: `convert("RGB")`, transparency dropped, the
orientation in a camera's notes not applied. Grey images of 9 to 16 bits keep their precision, full scale is white; float images lie
in 0 … 1. Of 16-bit colours Pillow reads the upper 8 bits; of several frames the first is read. What has no known white is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from overq.errors import InputError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # nothing that would start another program, as PostScript does
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
OTHER_SUFFIXES = {".avif", ".dng", ".exr", ".hdr", ".heic", ".heif", ".jp2", ".jxl", ".npy", ".raw", ".svg", ".tga"}  # images, not read

_EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
_UNMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_BITS, _PHOTOMETRIC, _ORIENTATION = 258, 262, 0x0112  # tags of TIFF and EXIF

FRAMES = "of several frames the first is read"
ORIENTATION = "the camera's orientation is not applied, as in torchvision"
UPPER_BITS = "of 16-bit colours the upper 8 bits are read"


@contextmanager
def _reading(path: Path) -> Iterator[Image.Image]:
    """The file's image; whatever the decoder raises is one line."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except InputError:
        raise
    except Exception as error:  # decoders raise what damaged bytes lead them to
        raise InputError(f"{path}: not a readable image ({type(error).__name__})") from error


def look(path: Path) -> tuple[str, ...]:
    """Read the header: what is worth a word about the file. InputError where its pixels would be refused or cannot be read."""
    with _reading(path) as image:
        _white(image, path)
        said = []
        if getattr(image, "is_animated", False):
            said.append(FRAMES)
        headed = image.format != "PNG" or "exif" in image.info  # else Pillow would decode the whole file to look behind the pixels
        if headed and image.getexif().get(_ORIENTATION, 1) not in (0, 1):
            said.append(ORIENTATION)
        if image.mode in _EIGHT_BITS and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
            said.append(UPPER_BITS)
        return tuple(said)


def read(path: Path, channels: int) -> Image.Image:
    """The image in mode L (1 channel) or RGB (3); in mode F, 0 … 255, where it is grey with more than 8 bits."""
    with _reading(path) as image:
        white = _white(image, path)
        if white is None:
            image = image.convert(_UNMULTIPLIED.get(image.mode, image.mode))
            return image.convert("L" if channels == 1 else "RGB")
        values = np.asarray(image, np.float32)
        low, high = float(values.min()), float(values.max())
        if not (0 <= low <= high <= white):  # also where one is NaN
            raise InputError(f"{path}: pixels from {low:g} to {high:g}; they must lie in 0 … {white:g}")
        if _white_is_zero(image):
            values = white - values
        return Image.fromarray(values * np.float32(255 / white))


def _white(image: Image.Image, path: Path) -> float | None:
    """The value that is white in grey images of more than 8 bits; None where the image has at most 8 bits a channel."""
    if image.mode in _EIGHT_BITS:
        return None
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        return float(2 ** int(tags.get(_BITS, (16,))[0]) - 1)
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 65535.0  # neither has more than 16 bits; Pillow's PPM reader scales to them
    if image.mode == "F":
        return 1.0
    wanted = "8 to 16 bits without sign, or floats in 0 … 1"
    raise InputError(f"{path}: pixels of Pillow's mode {image.mode}, of which nobody knows what is white: convert the file to {wanted}")


def _white_is_zero(image: Image.Image) -> bool:
    return getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
