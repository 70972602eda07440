"""Top-1 in integers beside the float-scaled simulation.

python benchmarks/integers.py                                                   the built-in digits
python benchmarks/integers.py --network networks.py:resnet20 --images test.npz --calibration-images calibration.npz --limit 1000
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

import overq
from overq.integer import integer_network
from overq.nn import Recipe, observe
from overq.spec import Format
from overq.study import digits
from overq.study.data import Preprocess, from_tensors, open_images, some_of
from overq.study.models import load_model

FORMATS = {"A8 plain": Format.plain(8), "A4 full c=4": Format(4, 4), "A3 full c=4": Format(3, 4), "A3 plain": Format.plain(3)}
BATCH = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--calibration-images", type=Path)
    parser.add_argument("--labels", type=Path, help="as in `overq evaluate`")
    parser.add_argument("--crop", type=int, help="center crop in pixels")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--limit", type=int, default=1000)
    options = parser.parse_args()
    if options.network is None:
        model, images = digits.network(), from_tensors("digits", *digits.images("test"))
        calibration = from_tensors("digits", digits.images("calibration")[0])
    else:
        model, preprocess = load_model(options.network), Preprocess(None, options.crop)
        images = open_images(options.images, options.labels, preprocess)
        calibration = some_of(open_images(options.calibration_images, None, preprocess, labelled=False), 256)
    images = some_of(images, options.limit)
    seen = observe(model, calibration.batches(BATCH))
    for name, fmt in ((name, FORMATS[name]) for name in options.formats.split(",")):
        quantized = overq.quantize(model, seen, Recipe(fmt))
        net = integer_network(quantized)
        start = time.perf_counter()
        integers = torch.cat([net(x).argmax(1) for x in images.batches(BATCH)]).numpy()
        seconds = time.perf_counter() - start
        with torch.no_grad():
            simulated = torch.cat([quantized(x).argmax(1) for x in images.batches(BATCH)]).numpy()
        top1 = [100 * float(np.mean(answers == images.labels)) for answers in (simulated, integers)]
        same = 100 * float(np.mean(simulated == integers))
        print(
            f"{name:12} simulation {top1[0]:.2f}  integers {top1[1]:.2f}  same answer {same:.1f} %  {images.count} images, {seconds:.1f} s"
        )


if __name__ == "__main__":
    main()
