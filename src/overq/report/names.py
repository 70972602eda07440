"""What a reader calls a setting: "OverQ A4 c4" for overq:bits=4,cascade=4:W8. Labels of others' make stay as they are."""

from __future__ import annotations

import re

from overq.records import Record
from overq.text import visible

FLOAT, PLAIN, OURS = "float", ("uniform", "plain", "plain_recipe"), ("overq", "overq_recipe")
FAMILIES = {
    "uniform": "plain", "plain": "plain", "plain_recipe": "plain", "overq": "OverQ", "overq_recipe": "OverQ",
    "mixed_recipe": "mixed formats", "overq_first": "OverQ 2019", "ocs_activations": "OCS (activations)", "ocs_weights": "OCS (weights)",
    "sparq": "SPARQ", "olive": "OliVe", "pwlq": "PWLQ", "biscaled": "BiScaled", "high_precision": "high precision", "mx": "MX",
    "mx_plus": "MX+", "nvfp4": "NVFP4", "tender": "Tender", "atom": "Atom",
}  # fmt: skip
_WORDS = {
    "policy=first": "", "policy=largest": "largest first", "reorder=true": "reordered", "reorder_network=true": "network reordered",
    "bias_correction=true": "bias corrected", "bias_correction=mean": "means corrected", "sequential=true": "sequential",
    "integers=true": "integers", "edges=false": "edges too", "range_bits=0": "precision only", "fraction_bits=0": "range only",
}  # fmt: skip


def family(record: Record) -> str:
    """The method in words: what has one colour in a chart."""
    return FAMILIES.get(record.method, visible(record.method))


def parameters(label: str) -> dict[str, str]:
    """The parameters that a study's label spells; {} of one that spells none."""
    inside = label.partition(":")[2].rpartition(":W")[0]
    return dict(part.split("=", 1) for part in inside.split(",") if "=" in part)


def words(record: Record) -> str:
    """The setting without its weight bits."""
    given = parameters(record.label)
    if record.method == FLOAT or not given:
        label = record.label.removesuffix(" plain")
        return visible(f"{family(record)} {label}" if re.match(r"A\d", label) else label)
    bits, cascade = given.pop("bits", ""), given.pop("cascade", "0")
    parts = [f"{family(record)} {f'A{bits}' if bits else ''}".strip()]
    parts += [f"c{cascade}"] if cascade != "0" else []
    rest = [_WORDS.get(f"{key}={value}", f"{key.replace('_', ' ')} {value}") for key, value in given.items()]
    return visible(", ".join([" ".join(parts), *filter(None, rest)]))
