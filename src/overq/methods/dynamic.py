"""Dynamic steps: any method with one step for each channel vector, or for each group of its lanes, in place of one for the tensor."""

from __future__ import annotations

from dataclasses import dataclass, replace

import array_api_compat
import numpy as np

from overq.errors import FormatError
from overq.kernels import scale
from overq.methods.blocks import blockwise
from overq.methods.method import Array, Cost, Fitted, Method, check_integer, checked_sample
from overq.methods.ocs import OCSActivations
from overq.methods.tender import Tender
from overq.spec import Format

SCALE_BITS = 16  # of a step, beside the values of its vector or group
ANY = Format.plain(8)  # steps of whole vectors are alike for every format


@dataclass(frozen=True)
class Dynamic(Method):
    """The method `of` with the step Δ = α · statistic of each vector, as `overq.kernels.scale.steps` finds it; α is fitted once.

    Source: per-token scales are common (e.g. ZeroQuant, Yao et al. 2022, arXiv 2206.01861), per-group ones those of Q-BERT and of Atom
    (Zhao et al. 2023, arXiv 2310.19102); α < 1 of the greatest magnitude is their "clip ratio". Here α has the least error of what the
    method decodes, on vectors divided by their statistic: every vector counts alike, however large it is.
    by: "max" or "rms" of the magnitudes. group: lanes that share a step, None is the whole vector; nothing crosses a group, and the last
    one may be short. A fitted method's `step` is α, and whatever else it holds in units of the input is in units of the statistic.
    """

    idempotent = False

    of: Method
    by: str = "max"
    group: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.of, Method) or isinstance(self.of, Dynamic):
            raise FormatError(f"Dynamic.of must be a method with static steps, not {self.of!r}")
        if self.of.stepless:
            raise FormatError(f"{self.of.describe()} takes its scales from each block: it has no step that could be dynamic")
        if self.by not in scale.MEASURES:
            raise FormatError(f"a dynamic step is by {' or '.join(scale.MEASURES)} of each vector, not {self.by!r}")
        if self.group is not None:
            check_integer(self, "group", 2, 2**16)
            if isinstance(self.of, (OCSActivations, Tender)):
                raise FormatError(f"{self.of.describe()} knows channels of the whole vector: its step cannot be one a group")

    @property
    def fitted(self) -> type[Fitted]:  # type: ignore[override]  # a class variable of other methods
        return self.of.fitted

    @property
    def bits(self) -> int:
        return self.of.bits  # type: ignore[attr-defined]  # every method has bits

    @property
    def neighbours(self) -> bool:
        return self.of.neighbours

    def step_format(self, signed: bool) -> Format | None:
        return self.of.step_format(signed)

    def fit(self, sample: np.ndarray, signed: bool, step: float | None = None) -> Fitted:
        """As of any method; `step` is α."""
        found = self.of.fit(self.relative(checked_sample(sample, signed)), signed, step)
        return replace(found, method=self)

    def relative(self, sample: np.ndarray) -> np.ndarray:
        """Channel vectors float32 [M, K] -> vectors that share a step, each divided by its statistic: [M, K] or [M · groups, group].

        Vectors of zeros stay zeros. A short last group is left out where there are whole ones.
        """
        lanes = sample.shape[1]
        if self.group is not None and self.group < lanes:
            sample = np.ascontiguousarray(sample[:, : lanes // self.group * self.group]).reshape(-1, self.group)
        return np.asarray(sample / self.steps(sample, 1.0, 1), np.float32)

    def steps(self, x: Array, alpha: float, axis: int) -> Array:
        """Float32, 1 along `axis`."""
        return scale.steps(x, scale.Dynamic(alpha, self.by), ANY, axis)

    def decode(self, x: Array, fitted: Fitted, axis: int) -> Array:
        return blockwise(x, axis, self.group, lambda part, along: self.of.decode(part, self.inner(part, fitted, along), along))

    def inner(self, x: Array, fitted: Fitted, axis: int) -> Fitted:
        """The fitted method `of` for these vectors. A number format's kernel finds the steps itself, in the pass that uses them."""
        own = replace(fitted, method=self.of)
        if self.of.format(fitted.signed) is not None:
            return own.with_steps(lambda alpha: scale.Dynamic(alpha, self.by))
        return own.with_steps(lambda alpha: self.steps(x, alpha, axis))

    def count(self, x: Array, fitted: Fitted, axis: int, weight_bits: int) -> Cost:
        """Of the method, for lanes that share a step, and the step's own bits."""
        axis %= x.ndim
        shared = min(self.group or x.shape[axis], x.shape[axis])
        first = x[(slice(None),) * axis + (slice(0, x.shape[axis] // shared * shared),)]
        vectors = array_api_compat.array_namespace(x).reshape(first, (*x.shape[:axis], -1, shared, *x.shape[axis + 1 :]))
        cost = self.of.count(vectors, self.inner(vectors, fitted, axis + 1), axis + 1, weight_bits)
        scales = -(-x.shape[axis] // shared) * SCALE_BITS / x.shape[axis]
        return replace(cost, metadata_bits=cost.metadata_bits + scales)

    def integer_weights(self, w: Array, bits: int) -> tuple[Array, Array]:
        return self.of.integer_weights(w, bits)

    def describe(self) -> str:
        return f"{self.of.describe()}, {self.rule}"

    @property
    def rule(self) -> str:
        """What has a step of its own, and by which statistic, in words."""
        return f"a step for each {'vector' if self.group is None else f'{self.group} lanes'} by {self.by}"


def dynamic(method: Method, by: str, group: int | None = None) -> Method:
    """The method with dynamic steps; "" leaves it static. FormatError: a group without them."""
    if by:
        return Dynamic(method, by, group)
    if group is not None:
        raise FormatError(f'group {group!r} is of dynamic steps: give dynamic = "max" or "rms", too')
    return method
