"""What several commands read from their options."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

from overq.cli.progress import waiting
from overq.errors import InputError
from overq.spec import Format
from overq.text import visible

T = TypeVar("T")


def given(value: T | None, default: T) -> T:
    """What an option says, also where that is empty; the default only where it was not given."""
    return default if value is None else value


def integers(option: str, text: str) -> tuple[int, ...]:
    """An option's comma-separated whole numbers."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"{option} {text}: write whole numbers separated by commas") from None


def numbers(option: str, text: str) -> tuple[float, ...]:
    """An option's comma-separated numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text}: write numbers separated by commas") from None


def format_of(
    bits: int,
    cascade: int,
    modes: str,
    policy: str,
    signed: bool,
    range_bits: int | None = None,
    fraction_bits: int | None = None,
    evict: int = 0,
) -> Format:
    """The format that the options spell; cascade 0 is plain. A mode that is off has no bits."""
    if cascade == 0:
        return Format.plain(bits, signed)
    if modes not in ("range", "precision", "both"):
        raise InputError(f"--modes must be range, precision or both, not {modes!r}")
    if modes == "precision" and range_bits:
        raise InputError(f"--modes precision has no high digits, but --range-bits is {range_bits}")
    if modes == "range" and fraction_bits:
        raise InputError(f"--modes range has no fraction digits, but --fraction-bits is {fraction_bits}")
    r, f = (0 if modes == "precision" else range_bits), (0 if modes == "range" else fraction_bits)
    if evict and modes == "precision":
        raise InputError(f"--modes precision serves no outlier, but --evict is {evict}")
    return Format(bits, cascade, r, f, policy, signed, evict=evict)


def beside_plain(fmt: Format) -> list[Format]:
    """The format between plain ones with as many bits and, up to 8, with one more; a plain format stands alone."""
    if fmt.cascade == 0:
        return [fmt]
    return [Format.plain(fmt.bits, fmt.signed), fmt, *([Format.plain(fmt.bits + 1, fmt.signed)] if fmt.bits < 8 else [])]


def network_of(model: str | None, weights: Path | None, images: Path | None, device: str) -> tuple[Any, str]:
    """The user's network, or the built-in one, on the device; and its name."""
    import torch

    if (model is None) != (images is None):
        raise InputError("--model and --images go together: give both, or neither for the built-in digits")
    if model is None:
        if weights is not None:
            raise InputError("--weights needs --model")
        from overq.study.digits import network

        net, name = network(), "digits network"
    else:
        from overq.study.models import load_model

        with (
            waiting(f"reading {visible(model)}", told=False),
            redirect_stdout(sys.stderr),
        ):  # what the network's own code prints is no result
            net, name = load_model(model, weights), model.rpartition(":")[2]
    try:
        return net.to(torch.device(device)), name
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: {' '.join(str(error).split())[:160]}") from error


def built_in_digits() -> tuple[Any, Any]:
    """(images to show, images to calibrate on)."""
    from overq.study import digits
    from overq.study.data import from_tensors

    return from_tensors("handwritten digits (test half)", *digits.images("test")), from_tensors("digits", digits.images("calibration")[0])
