"""Ways to quantize an activation tensor, side by side behind one interface. One file per method.

fitted = METHODS["sparq"](bits=4).fit(sample, signed=False)   # sample: float [positions, lanes]
x_hat = fitted(x, axis=1)                                      # NumPy or torch; same shape and dtype
w_hat = fitted.method.weights(w, bits=8)                       # [outputs, inputs, ...]
cost = fitted.cost(sample)                                     # bits per activation value, payload and metadata

To add one: a frozen dataclass derived from `Method` in its own file, and a line in METHODS; the tests loop over it.
"""

import math
from dataclasses import asdict, fields
from typing import Any

from overq.errors import FormatError
from overq.methods.atom import Atom
from overq.methods.biscaled import BiScaled
from overq.methods.dynamic import Dynamic, dynamic
from overq.methods.highprecision import HighPrecision
from overq.methods.method import Cost, Fitted, Method
from overq.methods.mx import MX
from overq.methods.mxplus import MXPlus
from overq.methods.nvfp4 import NVFP4
from overq.methods.ocs import OCSActivations, OCSWeights
from overq.methods.olive import OliVe
from overq.methods.overq import OverQ
from overq.methods.overq_first import OverQFirst
from overq.methods.pwlq import PWLQ
from overq.methods.sparq import SPARQ
from overq.methods.tender import Tender
from overq.methods.uniform import Uniform
from overq.spec import Format

METHODS: dict[str, type[Method]] = {
    "uniform": Uniform,
    "overq": OverQ,
    "overq_first": OverQFirst,
    "ocs_activations": OCSActivations,
    "ocs_weights": OCSWeights,
    "sparq": SPARQ,
    "olive": OliVe,
    "pwlq": PWLQ,
    "biscaled": BiScaled,
    "high_precision": HighPrecision,
    "mx": MX,
    "mx_plus": MXPlus,
    "nvfp4": NVFP4,
    "tender": Tender,
    "atom": Atom,
}


def method_of(fmt: Format) -> Method:
    """The method whose tensors have that format; its `signed` is left to the tensor."""
    return Uniform(fmt.bits) if fmt == Format.plain(fmt.bits, fmt.signed) else OverQ.of(fmt)


def method_to_json(method: Method) -> dict[str, Any]:
    """Plain JSON values: its name in METHODS and its parameters; `evict` only where it is on, as it was written before there was one."""
    if isinstance(method, Dynamic):
        return {**method_to_json(method.of), "dynamic": method.by, "group": method.group}
    name = next(name for name, cls in METHODS.items() if cls is type(method))
    return {"name": name, **{key: value for key, value in asdict(method).items() if key != "evict" or value}}


def method_from_json(data: Any) -> Method:
    """The inverse of `method_to_json`; parameters may be left out. FormatError: no such method, parameter or value."""
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise FormatError(f'a method is an object with a "name" and parameters, not {data!r}')
    return build(data["name"], {key: value for key, value in data.items() if key != "name"})


def build(name: str, parameters: dict[str, Any]) -> Method:
    """The method of that name in METHODS, with `dynamic` ("max", "rms") and `group` in its dynamic form (`Dynamic`).

    FormatError where name or parameters do not exist, or a parameter makes no sense.
    """
    if name not in METHODS:
        raise FormatError(f"no method {name!r}; there are {', '.join(METHODS)}")
    parameters = dict(parameters)
    by, group = parameters.pop("dynamic", ""), parameters.pop("group", None)
    known = {field.name for field in fields(METHODS[name])}
    if odd := sorted(parameters.keys() - known):
        raise FormatError(f"method {name!r} has no parameter {odd[0]!r}; there are {', '.join(f.name for f in fields(METHODS[name]))}")
    return dynamic(METHODS[name](**parameters), by, group)


def fitted_to_json(fitted: Fitted) -> dict[str, Any]:
    """Plain JSON values; an infinite number becomes a string."""
    values = {field.name: getattr(fitted, field.name) for field in fields(fitted) if field.name != "method"}
    plain = {key: str(v) if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}
    return {"method": method_to_json(fitted.method), **plain}


def fitted_from_json(data: Any) -> Fitted:
    """The inverse of `fitted_to_json`. FormatError where it is none."""
    if not isinstance(data, dict):
        raise FormatError(f"a fitted method is an object, not {data!r}")
    method = method_from_json(data.get("method"))
    wanted = [field.name for field in fields(method.fitted) if field.name != "method"]
    if data.keys() != {"method", *wanted}:
        raise FormatError(f"a fitted {method.describe()} needs method, {', '.join(wanted)}; got {', '.join(map(str, data))}")
    values: dict[str, Any] = {key: float(v) if isinstance(v, str) else tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    step = values["step"]
    number = isinstance(step, (int, float)) and not isinstance(step, bool) and 0 < step < math.inf
    if not isinstance(values["signed"], bool) or not (step is None if method.stepless else number):
        wanted_step = "no step" if method.stepless else "a positive step"
        raise FormatError(f"a fitted {method.describe()} needs signed true or false and {wanted_step}, not {values['signed']}, {step!r}")
    return method.fitted(**{**values, "method": method})


__all__ = [
    "METHODS",
    "Cost",
    "Dynamic",
    "Fitted",
    "Method",
    "OverQ",
    "Uniform",
    "build",
    "dynamic",
    "fitted_from_json",
    "fitted_to_json",
    "method_from_json",
    "method_of",
    "method_to_json",
]
