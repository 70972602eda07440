"""OverQ: opportunistic outlier quantization (arXiv 1910.06909v2), from a float PyTorch model to gates.

    import overq

    recipe = overq.Recipe(overq.Format(bits=4, cascade=4))
    qmodel = overq.quantize(model, samples, recipe)      # a new model; a few unlabelled samples
    print(overq.summary(qmodel))
    y = overq.overwrite(x, step=0.1, fmt=overq.Format())  # one tensor

Each name is imported when it is first used: torch only with what needs it, and the command line is ready for Ctrl-C at once;
`overq.spec` needs the standard library alone.
"""

from importlib import import_module

TYPE_CHECKING = False  # typing's own costs half of the import
if TYPE_CHECKING:
    from overq import errors as errors
    from overq import spec as spec
    from overq.errors import OverqError
    from overq.exchange import from_onnx, to_onnx
    from overq.nn import LayerRule, Recipe, load, observe, overwrite, quantize, save, summary
    from overq.spec import Format

__version__ = "0.1.0"
__all__ = [
    "Format",
    "LayerRule",
    "OverqError",
    "Recipe",
    "from_onnx",
    "load",
    "observe",
    "overwrite",
    "quantize",
    "save",
    "summary",
    "to_onnx",
]

_FROM = dict.fromkeys(("LayerRule", "Recipe", "load", "observe", "overwrite", "quantize", "save", "summary"), "overq.nn")
_FROM |= {"Format": "overq.spec", "OverqError": "overq.errors"}
_FROM |= dict.fromkeys(("from_onnx", "to_onnx"), "overq.exchange")


def __getattr__(name: str) -> object:
    if name in _FROM:
        return getattr(import_module(_FROM[name]), name)
    if name in ("errors", "spec"):
        return import_module(f"overq.{name}")
    raise AttributeError(f"module 'overq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FROM])
