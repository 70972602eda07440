"""Ways to quantize an activation tensor, side by side behind one interface. One file per method.

fitted = METHODS["sparq"](bits=4).fit(sample, signed=False)   # sample: float [positions, lanes]
x_hat = fitted(x, axis=1)                                      # NumPy or torch; same shape and dtype
w_hat = fitted.method.weights(w, bits=8)                       # [outputs, inputs, ...]
cost = fitted.cost(sample)                                     # bits per activation value, payload and metadata

To add one: a frozen dataclass derived from `Method` in its own file, and a line in METHODS; the tests loop over it.
"""

from overq.methods.biscaled import BiScaled
from overq.methods.highprecision import HighPrecision
from overq.methods.method import Cost, Fitted, Method
from overq.methods.mx import MX
from overq.methods.ocs import OCSActivations, OCSWeights
from overq.methods.olive import OliVe
from overq.methods.overq import OverQ
from overq.methods.overq_first import OverQFirst
from overq.methods.pwlq import PWLQ
from overq.methods.sparq import SPARQ
from overq.methods.uniform import Uniform

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
}

__all__ = ["METHODS", "Cost", "Fitted", "Method"]
