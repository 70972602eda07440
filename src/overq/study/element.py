"""Which processing element a setting needs, by the name that tables of areas and cycles have for it."""

from __future__ import annotations

from typing import Any

from overq.spec import Format
from overq.study.plan import Setting


def element(setting: Setting) -> str:
    """ "A4 plain", "A4 r3+f3 c4", "A4 r3+f3 c4 evict2", "A4 sparq", …; "" for float and for a mixture of formats.

    OCS computes on plain elements, more of them.
    """
    if setting.method == "float" or "budget" in dict(setting.parameters):
        return ""
    recipe = setting.recipe()
    if recipe.overrides or recipe.range_bits == "auto":
        return ""
    method: Any = recipe.method
    fmt = method.format(False)
    if fmt is not None:
        return _of_format(fmt)
    plain = setting.method in ("ocs_activations", "ocs_weights")
    return f"A{method.bits} {'plain' if plain else setting.method}"


def _of_format(fmt: Format) -> str:
    """The label of the format that stands for all with the same element: policy, tiles and how far a zero reaches are the encoder's."""
    return fmt.with_(policy="first", lanes=None, cascade=4 if fmt.cascade > 1 else fmt.cascade).label
