"""Means over networks: one record that stands for several, and what they gain together, with its interval."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import sqrt

import numpy as np

from overq.compare import SQNR, Paired, paired
from overq.errors import InputError
from overq.records import Record

DRAWN = 1000  # resamples of an interval in dB: there are as many kinds of images as images, and a table has dozens of pairs
AVERAGED = ("top1", "difference", "sqnr", "coverage", "expected_coverage", "zero_rate", "outlier_rate", "bits")


def mean_of(records: list[Record]) -> Record:
    """The record itself, or the mean of one setting's on several networks; a figure that one of them lacks is None."""
    if len(records) == 1:
        return records[0]
    halves = [None if r.low is None or r.high is None else (r.high - r.low) / 2 for r in records]
    middle = {name: _mean([getattr(r, name) for r in records]) for name in AVERAGED}
    half, difference = _half([h for h in halves if h is not None]), middle["difference"]
    known = difference is not None and None not in halves
    return replace(
        records[0], network="mean", right="", images=min(r.images for r in records), **middle,  # type: ignore[arg-type]
        low=difference - half if known else None, high=difference + half if known else None,  # type: ignore[operator]
    )  # fmt: skip


Interval = tuple[float, float, float]  # a difference and its 95 % interval


def spelled(found: Interval | None, digits: int) -> str:
    """ "+1.2 [+0.9, +1.5]"; "" of None."""
    return "" if found is None else "{:+.{d}f} [{:+.{d}f}, {:+.{d}f}]".format(*found, d=digits)


def gained(pairs: list[tuple[Record, Record]]) -> Interval:
    """Top-1 of the first less the second, in points, in the mean over the networks."""
    return _together([_paired(record, base) for record, base in pairs])


def nearer(pairs: list[tuple[Record, Record]]) -> Interval | None:
    """By how many dB the scores of the first are nearer to float's, in the mean over the networks; None where the records do not say it
    image by image."""
    if any(not record.errors or record.sqnr is None for pair in pairs for record in pair):
        return None
    return _together([_nearer(record, base) for record, base in pairs])


def _together(found: list[Paired]) -> Interval:
    """One pair: its own interval; several: images of different networks are drawn independently, so half-widths add as standard errors
    do."""
    difference = sum(p.difference for p in found) / len(found)
    if len(found) == 1:
        return difference, found[0].low, found[0].high
    half = _half([(p.high - p.low) / 2 for p in found])
    return difference, difference - half, difference + half


def _half(halves: list[float]) -> float:
    return sqrt(sum(h * h for h in halves)) / max(1, len(halves))


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _paired(record: Record, base: Record) -> Paired:
    if record.images != base.images or not record.right or not base.right:
        raise InputError(f"{record.label} and {base.label} of {record.network} cannot be compared: not the same images")
    return _compared(record.right, base.right, record.images)


@lru_cache(1000)
def _compared(right: str, base: str, images: int) -> Paired:
    a, b = (np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=images).astype(bool) for text in (base, right))
    return paired(a, b)


def _nearer(record: Record, base: Record) -> Paired:
    if record.images != base.images:
        raise InputError(f"{record.label} and {base.label} of {record.network} cannot be compared: not the same images")
    return _of_errors(record.errors, base.errors, record.sqnr or 0.0, base.sqnr or 0.0)


@lru_cache(1000)
def _of_errors(errors: str, base: str, sqnr: float, base_sqnr: float) -> Paired:
    a, b = _columns(base, base_sqnr), _columns(errors, sqnr)
    return paired(a, b, SQNR, resamples=DRAWN)


def _columns(errors: str, sqnr: float) -> np.ndarray:
    """Signal and noise [images, 2]; the signal, the same whatever the setting, is 1 here."""
    noise = np.frombuffer(bytes.fromhex(errors), "<f2").astype(float) * 10 ** (-sqnr / 10)
    return np.stack([np.ones_like(noise), noise], 1)
