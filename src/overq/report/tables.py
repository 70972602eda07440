"""An Evaluation as a terminal table and as CSV."""

from __future__ import annotations

from rich.table import Table

from overq.records import Accuracy, Evaluation
from overq.text import add_row, csv_text, visible

COLUMNS = ("setting", "bits", "weight_bits", "mode", "cascade", "policy", "top1", "correct", "images",
           "coverage", "expected_coverage", "zero_rate", "outlier_rate", "seconds", "recipe", "format")  # fmt: skip


def table(evaluation: Evaluation) -> Table:
    """One row per setting; coverage is the mean over layers, beside what 1-(1-p)^c predicts."""
    base = evaluation.results[0].top1
    out = Table(
        title=visible(f"{evaluation.model} on {evaluation.data}: top-1 of {evaluation.results[0].images} images"),
        caption=f"calibration {evaluation.calibration} on {evaluation.calibration_images} images, seed {evaluation.seed}, "
        f"kernels {evaluation.backend}",
    )
    for heading in ("setting", "W", "top-1 %", "to float", "coverage", "1-(1-p)^c", "zeros", "outliers", "s"):
        out.add_column(heading, justify="left" if heading == "setting" else "right")
    for before, r in zip((None, *evaluation.results), evaluation.results, strict=False):
        if before is not None and (before.setting, before.mode, before.bits * (r.setting == "overq")) != (
            r.setting, r.mode, r.bits * (r.setting == "overq")):  # fmt: skip
            out.add_section()
        add_row(
            out, r.label, str(r.weight_bits), f"{r.top1:.2f}", "" if r.setting == "float" else f"{r.top1 - base:+.2f}",
            _share(r.coverage), _share(r.expected_coverage), _share(r.zero_rate), _share(r.outlier_rate, 4), f"{r.seconds:.1f}",
        )  # fmt: skip
    return out


def to_csv(evaluation: Evaluation) -> str:
    """One line per setting, the run's own facts repeated on each."""
    facts = {"model": evaluation.model, "data": evaluation.data, "calibration": evaluation.calibration,
             "calibration_images": evaluation.calibration_images, "seed": evaluation.seed, "backend": evaluation.backend}  # fmt: skip
    facts |= {f"{name}_version": version for name, version in evaluation.versions.items()}
    rows = ({column: _plain(result, column) for column in COLUMNS} | facts for result in evaluation.results)
    return csv_text([*COLUMNS, *facts], rows)


def _plain(result: Accuracy, column: str) -> object:
    value = getattr(result, column)
    return f"{value:.6g}" if isinstance(value, float) else value


def _share(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"
