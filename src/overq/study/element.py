"""Which processing element a setting needs, by the name that tables of areas and cycles have for it."""

from __future__ import annotations

from typing import Any

from overq.spec import Format
from overq.study.plan import Setting


def element(setting: Setting) -> str:
    """ "A4 plain", "A4 range+precision c=4", "A4 sparq", …; "" for float and for a mixture of formats.

    OCS computes on plain elements, more of them.
    """
    if setting.method == "float" or "budget" in dict(setting.parameters):
        return ""
    method: Any = setting.recipe().method
    fmt = method.format(False)
    if fmt is not None:
        return _of_format(fmt)
    plain = setting.method in ("ocs_activations", "ocs_weights")
    return f"A{method.bits} {'plain' if plain else setting.method}"


def _of_format(fmt: Format) -> str:
    return f"A{fmt.bits} {'+'.join(fmt.modes)} c={fmt.cascade}" if fmt.modes else f"A{fmt.bits} plain"
