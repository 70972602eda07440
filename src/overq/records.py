"""One result = one frozen record <-> one JSON object, with a schema version. Plain values only: a record outlives the code."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field
from typing import Any

from overq.errors import ToolError

SCHEMA = 1


@dataclass(frozen=True)
class LayerCoverage:
    """One layer's lanes over all evaluated images. Coverage is None where the layer had no outlier.

    format      the label of its number format; "" where it is not known
    step, sqnr  as calibration chose and saw them: of a digit, in units of the input; of its sample, in dB; None where not known
    """

    name: str
    zero_rate: float
    outlier_rate: float
    coverage: float | None
    expected_coverage: float
    format: str = ""
    step: float | None = None
    sqnr: float | None = None


@dataclass(frozen=True)
class LayerInput:
    """What one layer of the float network saw in calibration.

    low, high  least and greatest value
    edges      of the histogram's bins, one more than counts
    vectors    a few of the channel vectors, each cut to its first lanes; lanes: how many there were
    """

    name: str
    low: float
    high: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    vectors: tuple[tuple[float, ...], ...]
    lanes: int

    @classmethod
    def from_json(cls, data: Any) -> LayerInput:
        """The inverse of `asdict`; ValueError, TypeError or KeyError for what it does not give."""
        edges, counts = tuple(map(float, data["edges"])), tuple(map(int, data["counts"]))
        if len(edges) != len(counts) + 1:
            raise ValueError(f"{len(edges)} edges of {len(counts)} bins")
        vectors = tuple(tuple(map(float, vector)) for vector in data["vectors"])
        return cls(str(data["name"]), float(data["low"]), float(data["high"]), edges, counts, vectors, int(data["lanes"]))


@dataclass(frozen=True)
class Accuracy:
    """Top-1 of one setting.

    setting    "float", "plain", "overq", or the method of a recipe in words
    mode       "", "range", "range+precision", …; cascade is 0 for plain
    bits       activation bits; weight_bits of the weights; 32 and 32 for float
    correct    of `images` scored images
    coverage   mean over the layers that had outliers, expected_coverage the mean of 1-(1-p)^c over the same; None where nothing is served
    seconds    for calibration and evaluation of this setting
    recipe     name of the recipe, where one was given; the other fields tell its default rule only
    format     `Format.label`, "" for float and rivals
    stored_bits  of a value, its share of the states included; None where only the method knows
    right      hexadecimal, the first image in the highest bit: which images were classified correctly
    """

    setting: str
    bits: int
    weight_bits: int
    mode: str
    cascade: int
    policy: str
    correct: int
    images: int
    seconds: float
    coverage: float | None = None
    expected_coverage: float | None = None
    zero_rate: float | None = None
    outlier_rate: float | None = None
    layers: tuple[LayerCoverage, ...] = ()
    recipe: str = ""
    format: str = ""
    stored_bits: float | None = None
    right: str = ""

    @property
    def top1(self) -> float:
        """Percent."""
        return 100.0 * self.correct / self.images

    @property
    def label(self) -> str:
        """A short name for tables and plots."""
        if self.recipe:
            return f"{self.recipe} ({self.setting})" if self.setting not in ("plain", "overq") else self.recipe
        return self.format or self.setting


@dataclass(frozen=True)
class Evaluation:
    """One run of `overq evaluate`: what was measured on what, with which versions. inputs: what the layers saw in calibration."""

    model: str
    data: str
    calibration: str
    calibration_images: int
    seed: int
    backend: str
    versions: dict[str, str]
    results: tuple[Accuracy, ...]
    schema: int = field(default=SCHEMA)
    inputs: tuple[LayerInput, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; every result also carries its top1."""
        data = asdict(self)
        data["results"] = [asdict(r) | {"top1": r.top1} for r in self.results]
        return data

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each setting, numbers as numbers; difference: points to float."""
        base = self.results[0].top1
        names = ("bits", "weight_bits", "stored_bits", "cascade", "coverage", "expected_coverage", "zero_rate", "outlier_rate", "seconds")
        return [
            {"setting": r.label, "top1": r.top1, "difference": r.top1 - base} | {name: getattr(r, name) for name in names}
            for r in self.results
        ]

    def to_pandas(self) -> Any:
        """A pandas DataFrame of `rows`. Raises ToolError where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise ToolError("Evaluation.to_pandas needs pandas, which is not installed: pip install pandas; `rows` needs nothing") from None
        return pandas.DataFrame(self.rows())

    def _repr_html_(self) -> str:
        """For notebooks: a row for each setting, top-1 also as a bar; everything in it as text."""
        rows = self.rows()
        least = min(row["top1"] for row in rows)
        span = max(row["top1"] for row in rows) - least or 1.0
        heads = "".join(f"<th>{name}</th>" for name in ("setting", "stored bits", "top-1 %", "", "to float", "coverage"))
        lines = []
        for row in rows:
            bar = f'<div style="background:#d9480f;height:.7em;width:{2 + 98 * (row["top1"] - least) / span:.0f}px"></div>'
            stored, covered = ("" if row[name] is None else f"{row[name]:.3g}" for name in ("stored_bits", "coverage"))
            cells = (html.escape(row["setting"]), stored, f"{row['top1']:.2f}", bar, f"{row['difference']:+.2f}", covered)
            lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        title = html.escape(f"{self.model} on {self.data}: top-1 of {self.results[0].images} images")
        return f"<table><caption>{title}</caption><tr>{heads}</tr>{''.join(lines)}</table>"


@dataclass(frozen=True)
class Record:
    """One setting of a study over all its images: what a study writes, and what tables, pictures and pages are made of.

    label, method            how the setting is named; which colour it has in a picture
    top1                     percent; None where it was not measured, like everything below that may be None
    difference, low, high    to float on the same images, in points, with the 95 % interval
    sqnr                     of the class scores against float's, in dB; None where they are exact
    coverage …               means over the layers that overwrite their input
    own                      the study's own measures, by name
    bits                     per activation value, payload and metadata; multiplier = activation bits × weight bits
    area, cycles             of the hardware, where a table was given that has them: of one element, of one image
    array_area               of a whole array with its encoder, likewise
    energy, edp              of one image, in mJ and mJ · ms, likewise
    right                    hexadecimal, the first image in the highest bit: which images were classified correctly
    errors                   hexadecimal, a float16 an image: energy of its scores' error over the mean of all images'
    element                  the name of the setting's processing element in tables of areas; "" where it has none of one name
    overq … numpy            versions of what made it; code is the hash of the source that decides results
    """

    study: str
    network: str
    label: str
    method: str
    images: int
    correct: int | None
    top1: float | None
    difference: float | None
    low: float | None
    high: float | None
    payload_bits: float
    metadata_bits: float
    bits: float
    multiplier: float
    weight_bits: int
    area: float | None
    cycles: float | None
    seed: int
    seconds: float
    overq: str
    code: str
    commit: str
    torch: str
    numpy: str
    samples: int | None = None
    sqnr: float | None = None
    coverage: float | None = None
    expected_coverage: float | None = None
    zero_rate: float | None = None
    outlier_rate: float | None = None
    right: str = ""
    array_area: float | None = None
    errors: str = ""
    element: str = ""
    energy: float | None = None
    edp: float | None = None
    own: dict[str, float] = field(default_factory=dict)

    @property
    def bit_cycles(self) -> float | None:
        """Bits stored × cycles of one image; None where the cycles are not known."""
        return None if self.cycles is None else self.bits * self.cycles
