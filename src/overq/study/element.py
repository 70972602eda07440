"""Which processing element a setting needs, by the name that tables of areas and cycles have for it."""

from __future__ import annotations

from overq.spec import Format
from overq.study.plan import RECIPE, Setting
from overq.study.recipes import recipe_of


def element(setting: Setting) -> str:
    """ "A4 plain", "A4 range+precision c=4", "A4 sparq", …; "" for float and for a mixture of formats.

    OCS computes on plain elements, more of them.
    """
    if setting.method == "float":
        return ""
    if setting.method == RECIPE:
        if "budget" in dict(setting.parameters):
            return ""  # of several
        return _of_format(recipe_of(dict(setting.parameters), setting.weight_bits).format)
    method = setting.build()
    if setting.method == "overq":
        return _of_format(method.format(False))
    plain = setting.method in ("uniform", "ocs_activations", "ocs_weights")
    return f"A{method.bits} {'plain' if plain else setting.method}"


def _of_format(fmt: Format) -> str:
    return f"A{fmt.bits} {'+'.join(fmt.modes)} c={fmt.cascade}" if fmt.modes else f"A{fmt.bits} plain"
