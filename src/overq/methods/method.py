"""What every method is: `Method` (parameters), `Fitted` (a method with its step, ready to use), `Cost` (bits).

A method file holds one frozen dataclass derived from `Method` and writes `decode` and `count`; the rest is shared,
so that every rival gets the same search for its best step, the same weights and the same treatment of NaN.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import array_api_compat
import numpy as np

from overq.calib.least_error import best
from overq.errors import CalibrationError, FormatError, InputError, NonFiniteError
from overq.methods.weights import integers
from overq.spec import Format

Array = Any  # numpy.ndarray or torch.Tensor


@dataclass(frozen=True)
class Cost:
    """What one activation value takes, on average.

    payload_bits     bits that spell the value, stored and moved
    metadata_bits    bits beside them: states, window positions, regions, indices, shared scales
    activation_bits  width of the multiplier's activation operand (a float's sign and significand)
    weight_bits      width of its other operand
    extra_lanes      array lanes added, as a fraction of the layer's own (0.02: two more for every hundred)
    """

    payload_bits: float
    metadata_bits: float
    activation_bits: float
    weight_bits: int
    extra_lanes: float = 0.0

    @property
    def bits(self) -> float:
        """Bits stored and moved per value, all of them."""
        return self.payload_bits + self.metadata_bits

    @property
    def multiplier(self) -> float:
        """Multiplier size per value, activation bits × weight bits, extra lanes included."""
        return self.activation_bits * self.weight_bits * (1 + self.extra_lanes)


@dataclass(frozen=True)
class Fitted:
    """A method ready for one activation tensor.

    step    the method's own unit (see its docstring); None where it has none (block formats)
    signed  whether the tensor holds negative values
    """

    method: Method
    signed: bool
    step: float | None

    def __call__(self, x: Array, axis: int = -1) -> Array:
        """Simulated quantization: x [..., K, ...] floating, lanes along `axis` -> what the method makes of it, same shape and dtype.

        Computed in float32. A NaN stays NaN and counts as 0 for its neighbours; ±inf saturates.
        """
        xp = array_api_compat.array_namespace(x)
        if not xp.isdtype(x.dtype, "real floating"):
            raise InputError(f"x must be a floating array, not {x.dtype}")
        if not -x.ndim <= axis < x.ndim:
            raise InputError(f"axis {axis} does not exist in an array of {x.ndim} dimensions")
        values = xp.astype(x, xp.float32, copy=False)
        nan = None
        if not _all_finite(xp, values):
            nan, most = xp.isnan(values), float(np.finfo(np.float32).max)
            values = xp.clip(xp.where(nan, 0.0, values), -most, most)
        with np.errstate(over="ignore"):  # a huge x / step is infinite and saturates, as it should
            y = xp.astype(self.method.decode(values, self, axis % x.ndim), x.dtype, copy=False)
        return y if nan is None else xp.where(nan, x, y)

    def cost(self, x: Array, axis: int = -1, weight_bits: int = 8) -> Cost:
        """Average cost per value of x (a sample will do); some methods depend on the data, some only on the number of lanes."""
        return self.method.count(x, self, axis, weight_bits)

    def with_steps(self, steps: Callable[[float], Any]) -> Any:
        """With a step for each vector, and all else that is in units of the input alike: what `steps` makes of them."""
        assert self.step is not None
        return replace(self, step=steps(self.step))

    @property
    def format(self) -> Format | None:
        """The number format of the tensor, where the method is one of ours."""
        return self.method.format(self.signed)

    def describe(self) -> str:
        kind = "signed" if self.signed else "unsigned"
        return f"{self.method.describe()}, {kind}" + ("" if self.step is None else f", step {self.step:.4g}")


@dataclass(frozen=True)
class Method(ABC):
    """Parameters of a way to quantize activations, checked in the constructor (FormatError)."""

    idempotent: ClassVar[bool] = True  # quantizing twice changes nothing more
    levels: ClassVar[bool] = True  # vectors whose values are all two steps are exact
    stepless: ClassVar[bool] = False  # takes its scales from the data it meets
    fitted: ClassVar[type[Fitted]] = Fitted  # what `fit` gives, where it holds more than a step

    @property
    def neighbours(self) -> bool:
        """Whether it matters which value stands beside which."""
        return False

    def format(self, signed: bool) -> Format | None:
        """The number format of a tensor, for methods that `overq.spec` defines; else None."""
        return None

    def step_format(self, signed: bool) -> Format | None:
        """The number format whose step the calibrations of `overq.calib` can find; else None."""
        return self.format(signed)

    def fit(self, sample: np.ndarray, signed: bool, step: float | None = None) -> Fitted:
        """Fix what the tensor needs.

        sample: float [M, K], M whole channel vectors. signed: whether negative values are to be represented.
        step: use this one; None takes the step of least squared error on the sample, decoded by the method itself.
        An all-zero sample (a dead layer) gives step 1.0: any step is exact.
        CalibrationError: an empty sample; NonFiniteError: NaN or infinity; InputError: shape, sign or step.
        """
        sample = checked_sample(sample, signed)
        candidates = self.candidates(sample, signed)
        if step is not None or not sample.any():
            return candidates[0](1.0 if step is None else checked_step(step))
        return best(sample, candidates)

    def candidates(self, sample: np.ndarray, signed: bool) -> list[Any]:
        """Functions step -> Fitted; the search takes the best of all. More than one where the method has a second parameter."""
        return [lambda step: Fitted(self, signed, step)]

    @abstractmethod
    def decode(self, x: Array, fitted: Any, axis: int) -> Array:
        """Finite float32 x -> its decoded values, float32; axis >= 0."""

    @abstractmethod
    def count(self, x: Array, fitted: Any, axis: int, weight_bits: int) -> Cost:
        """The cost of x's values."""

    def integer_weights(self, w: Array, bits: int) -> tuple[Array, Array]:
        """Weights [outputs, inputs, ...] as the method's hardware holds them: (int8 levels of the same shape, float32 scales [outputs]).

        Symmetric, one scale per output channel. int16 where the sum of a split weight's levels needs it.
        """
        return integers(w, bits)

    def weights(self, w: Array, bits: int) -> Array:
        """What the array effectively multiplies with: levels times scale, in float32, then w's dtype."""
        xp = array_api_compat.array_namespace(w)
        levels, scale = self.integer_weights(w, bits)
        return xp.astype(xp.astype(levels, xp.float32) * xp.reshape(scale, (-1,) + (1,) * (w.ndim - 1)), w.dtype)

    @abstractmethod
    def describe(self) -> str:
        """Name and parameters, short."""


def _all_finite(xp: Any, values: Array) -> bool:
    """One pass where the sum is finite: then all values are. A sum that overflows settles nothing."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(xp.isfinite(xp.sum(values))) or bool(xp.all(xp.isfinite(values)))


def checked_sample(sample: np.ndarray, signed: bool) -> np.ndarray:
    sample = np.asarray(sample)
    if sample.ndim != 2 or not np.issubdtype(sample.dtype, np.floating):
        raise InputError(f"sample must be a floating array [positions, lanes], not {sample.dtype} with {sample.ndim} dimensions")
    sample = sample.astype(np.float32, copy=False)
    if not np.isfinite(sample).all():
        raise NonFiniteError("sample holds NaN or infinity; a step needs finite values")
    if not sample.size:
        raise CalibrationError(f"sample of shape {sample.shape} is empty; no step can be chosen from it")
    if not signed and sample.min() < 0:
        raise InputError(f"sample holds negative values (least {sample.min():.4g}) but signed is False")
    return sample


def checked_step(step: float) -> float:
    """The step as float32 holds it."""
    rounded = float(np.float32(step))
    if math.isfinite(rounded) and rounded >= np.finfo(np.float32).tiny and np.isfinite(np.float32(1 / rounded)):
        return rounded
    raise InputError(f"step must be a positive number within float32's normal range, not {step!r}")


def check_integer(owner: object, name: str, low: int, high: int) -> None:
    """FormatError unless the field is an integer in range."""
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError(f"{type(owner).__name__}.{name} must be an integer from {low} to {high}, not {value!r}")


def check_flag(owner: object, *names: str) -> None:
    """FormatError unless the fields are True or False."""
    for name in names:
        if not isinstance(getattr(owner, name), bool):
            raise FormatError(f"{type(owner).__name__}.{name} must be True or False, not {getattr(owner, name)!r}")


def check_fraction(owner: object, name: str) -> None:
    """FormatError unless 0 <= field < 1."""
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise FormatError(f"{type(owner).__name__}.{name} must be a number from 0 to below 1, not {value!r}")
