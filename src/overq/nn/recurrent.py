"""LSTM, GRU, plain RNN and their cells as layers that can be seen and quantized: a product with the input, one with the state.

PyTorch's own kernels read the weights without calling a layer. `unrolled` changes a module in place so that it computes the same by calling
`nn.Linear` layers: `input_l0` on the whole sequence, `hidden_l0` once for each position, an LSTM's projection `project_l0`, and so on
for further layers (`_l1`) and the way back (`_reverse`); a cell has `input` and `hidden`. Its state_dict has their weights in place of
`weight_ih_l0`, … Sums have another order than in PyTorch's kernels, so outputs agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from overq.nn.padding import Keep, current, known

State = tuple[Tensor, ...]  # (h,); of an LSTM (h, c)


def _next(module: Any, x: Tensor, h: Tensor, state: State) -> State:
    """The state behind one position, from its input's product x and the state's product h, both [N, gates · width]."""
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        i, f, g, o = (x + h).chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    if isinstance(module, (nn.GRU, nn.GRUCell)):
        (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), h.chunk(3, -1)
        new = (xn + (xr + hr).sigmoid() * hn).tanh()
        return (new + (xz + hz).sigmoid() * (state[0] - new),)
    return ((x + h).relu() if module.nonlinearity == "relu" else (x + h).tanh(),)


class _Sequence(nn.RNNBase):
    """What `unrolled` makes of `nn.LSTM`, `nn.GRU` and `nn.RNN`; arguments and results are theirs."""

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """As PyTorch, but for the dtype, which each layer looks at."""
        wanted = 3 if batch_sizes is None else 2
        if input.dim() != wanted:
            raise RuntimeError(f"input must have {wanted} dimensions, got {input.dim()}")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}")

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        packed, remembers = isinstance(input, PackedSequence), isinstance(self, nn.LSTM)
        x, sizes = (input.data, input.batch_sizes) if packed else (input, None)
        if not packed and x.dim() not in (2, 3):
            raise ValueError(f"{self.mode}: Expected input to be 2D or 3D, got {x.dim()}D instead")
        batched, along = packed or x.dim() == 3, 0 if self.batch_first else 1  # the samples' axis
        x = x if batched else x.unsqueeze(along)
        state = self._begin(x, sizes, hx if remembers or hx is None else (hx,), batched)
        self.check_forward_args(x, state if remembers else state[0], sizes)  # type: ignore[arg-type]  # an LSTM's takes both
        if packed:
            state = _permuted(state, input.sorted_indices)
        y, state = self._layers(x, state, None if sizes is None else sizes.tolist())
        if packed:
            y = PackedSequence(y, sizes, input.sorted_indices, input.unsorted_indices)  # type: ignore[assignment]
            state = _permuted(state, input.unsorted_indices)
        elif not batched:
            y, state = y.squeeze(along), tuple(s.squeeze(1) for s in state)
        return y, state if remembers else state[0]

    def _begin(self, x: Tensor, sizes: Tensor | None, given: Any, batched: bool) -> State:
        """Every layer's and direction's first state, each [layers · directions, N, width]."""
        if given is not None:
            if not (batched or given[0].dim() == 2) or (batched and given[0].dim() != 3):
                kind = f"{'batched 3' if batched else 'unbatched 2'}-D"
                raise RuntimeError(f"For {kind} input, hx should also be {3 if batched else 2}-D but got {given[0].dim()}-D tensor")
            return tuple(given) if batched else tuple(s.unsqueeze(1) for s in given)
        shape = self.get_expected_hidden_size(x, sizes)
        h = x.new_zeros(shape)
        return (h, x.new_zeros(*shape[:2], self.hidden_size)) if isinstance(self, nn.LSTM) else (h,)

    def _layers(self, x: Tensor, state: State, sizes: list[int] | None) -> tuple[Tensor, State]:
        """All layers. x [N, T, K], [T, N, K] or packed [sum of sizes, K] -> the same with the last layer's outputs, and last states."""
        ways = ("", "_reverse") if self.bidirectional else ("",)
        last: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for way in ways:
                y, end = self._pass(f"_l{layer}{way}", x, tuple(s[len(last)] for s in state), sizes, backwards=bool(way))
                outputs.append(y)
                last.append(end)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
            if self.training and self.dropout and layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout)
        return x, tuple(torch.stack(parts) for parts in zip(*last, strict=True))

    def _pass(self, name: str, x: Tensor, state: State, sizes: list[int] | None, *, backwards: bool) -> tuple[Tensor, State]:
        """One layer in one direction; `sizes`: how many sequences go on at each position, None is all."""
        hidden, project = self._modules["hidden" + name], self._modules.get("project" + name)
        assert hidden is not None
        products, axis = self._modules["input" + name](x), 1 if self.batch_first else 0  # type: ignore[misc]
        steps = products.unbind(axis) if sizes is None else products.split(sizes)
        real = _real(x, sizes)
        outputs: list[Any] = [None] * len(steps)
        for t in reversed(range(len(steps))) if backwards else range(len(steps)):
            going = len(steps[t])
            now = tuple(s[:going] for s in state)
            with _known(real, axis, t):
                now = _next(self, steps[t], hidden(now[0]), now)
                now = now if project is None else (project(now[0]), *now[1:])
            outputs[t] = now[0]
            state = now if going == len(state[0]) else tuple(torch.cat([n, s[going:]]) for n, s in zip(now, state, strict=True))
        return (torch.stack(outputs, axis) if sizes is None else torch.cat(outputs)), state


def _permuted(state: State, order: Tensor | None) -> State:
    """With the samples in another order; None is as they are."""
    return state if order is None else tuple(s.index_select(1, order) for s in state)


def _real(x: Tensor, sizes: list[int] | None) -> Tensor | None:
    """Which positions of x are no padding, where that is known; packed sequences have none."""
    keep = None if torch.compiler.is_compiling() or sizes is not None else current()
    return None if keep is None else keep.of(x.shape[:-1])


def _known(real: Tensor | None, axis: int, t: int) -> AbstractContextManager[None]:
    """Within the block, layers know of one position which samples are real there."""
    return nullcontext() if real is None else known(Keep(real.select(axis, t)))


class UnrolledLSTM(_Sequence, nn.LSTM):
    """Of `nn.LSTM`."""


class UnrolledGRU(_Sequence, nn.GRU):
    """Of `nn.GRU`."""


class UnrolledRNN(_Sequence, nn.RNN):
    """Of `nn.RNN`."""


class _OneStep(nn.RNNCellBase):
    """What `unrolled` makes of `nn.LSTMCell`, `nn.GRUCell` and `nn.RNNCell`; arguments and results are theirs."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        remembers = isinstance(self, nn.LSTMCell)
        state = hx if remembers or hx is None else (hx,)
        for tensor in (input, *(state or ())):
            if tensor.dim() not in (1, 2):
                raise ValueError(f"{type(self).__name__}: Expected 1D or 2D input and state, got {tensor.dim()}D instead")
        batched = input.dim() == 2
        x = input if batched else input[None]
        if state is None:
            state = (x.new_zeros(len(x), self.hidden_size),) * (1 + remembers)
        elif not batched:
            state = tuple(s[None] for s in state)
        state = _next(self, self._modules["input"](x), self._modules["hidden"](state[0]), state)  # type: ignore[misc]
        state = state if batched else tuple(s[0] for s in state)
        return state if remembers else state[0]


class UnrolledLSTMCell(_OneStep, nn.LSTMCell):
    """Of `nn.LSTMCell`."""


class UnrolledGRUCell(_OneStep, nn.GRUCell):
    """Of `nn.GRUCell`."""


class UnrolledRNNCell(_OneStep, nn.RNNCell):
    """Of `nn.RNNCell`."""


UNROLLED: dict[Any, Any] = {
    nn.LSTM: UnrolledLSTM, nn.GRU: UnrolledGRU, nn.RNN: UnrolledRNN,
    nn.LSTMCell: UnrolledLSTMCell, nn.GRUCell: UnrolledGRUCell, nn.RNNCell: UnrolledRNNCell,
}  # fmt: skip
KINDS = tuple(UNROLLED.values())


def unrolled(model: nn.Module) -> nn.Module:
    """Change every plain recurrent module of the model so, in place; subclasses, patched ones and computed weights stay as they are."""
    for module in model.modules():
        if type(module) in UNROLLED and "forward" not in vars(module) and not _computed(module):
            _unroll(module)
    return model


def _names(module: Any) -> Iterable[tuple[str, str, str]]:
    """(layer's name, its weight's, its bias's) of every product."""
    if isinstance(module, nn.RNNCellBase):
        return [("input", "weight_ih", "bias_ih"), ("hidden", "weight_hh", "bias_hh")]
    ends = [f"_l{i}{way}" for i in range(module.num_layers) for way in ("", "_reverse")[: 1 + module.bidirectional]]
    kinds = [("input", "ih"), ("hidden", "hh"), *([("project", "hr")] if module.proj_size else [])]
    return [(kind + end, f"weight_{short}{end}", f"bias_{short}{end}") for end in ends for kind, short in kinds]


def _computed(module: nn.Module) -> bool:
    """Whether a weight of it is no parameter: pruning and parametrizations compute it anew."""
    return any(not isinstance(module._parameters.get(weight), nn.Parameter) for _, weight, _ in _names(module))


def _unroll(module: Any) -> None:
    held = module._parameters
    for name, weight_name, bias_name in _names(module):
        weight, bias = held.pop(weight_name), held.pop(bias_name, None)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        layer.weight, layer.bias = weight, bias
        module.add_module(name, layer.train(module.training))
    module.__class__ = UNROLLED[type(module)]
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()  # which holds the weights, too
