"""`nn.MultiheadAttention` as layers that can be seen and quantized: three projections, two products, and the projection behind them.

PyTorch's own forward reads its weights without calling a layer. `separate` changes the module in place so that it computes the same by
calling `query`, `key` and `value`, which are `nn.Linear`, and `out_proj`; its state_dict has their weights in place of `in_proj_weight`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SeparateAttention(nn.MultiheadAttention):
    """What `separate` makes of `nn.MultiheadAttention`; arguments and results are its."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        q, k, v = (self._rows(x) for x in (self.query(query), self.key(key), self.value(value)))
        mask = self._mask(q, k, attn_mask, key_padding_mask)
        causal = is_causal and key_padding_mask is None and not need_weights
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (torch.cat([x, b.expand(len(x), 1, -1)], 1) for x, b in ((k, self.bias_k), (v, self.bias_v)))
        if self.add_zero_attn:
            k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
        if mask is not None:
            mask = F.pad(mask, (0, k.shape[1] - mask.shape[-1]))
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q * math.sqrt(1.0 / q.shape[-1]) @ k.transpose(-2, -1)
            weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, -1), dropout)
            y = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            y = F.scaled_dot_product_attention(q, k, v, None if causal else mask, dropout, causal)
        y = y.transpose(1, 2).flatten(2)
        if query.dim() == 2:
            y, weights = y[0], None if weights is None else weights[0]
        elif not self.batch_first:
            y = y.transpose(0, 1)
        return self.out_proj(y), weights

    def _rows(self, x: Tensor) -> Tensor:
        """[N, T, E], whatever layout the module takes."""
        return x[None] if x.dim() == 2 else x if self.batch_first else x.transpose(0, 1)

    def _mask(self, q: Tensor, k: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """What is added to the scores [N, heads, L, S], broadcast; None is nothing."""
        if mask is not None:
            mask = _added(mask, q.dtype)
            mask = mask.unflatten(0, (len(q), self.num_heads)) if mask.dim() == 3 else mask[None, None]
        if padding is None:
            return mask
        added = _added(padding, q.dtype).view(-1, 1, 1, k.shape[1])
        return added if mask is None else mask + added


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    weights: Callable[[Tensor], Tensor] = lambda weights: weights,
) -> Tensor:
    """`F.scaled_dot_product_attention` as its two products, with what `weights` makes of the probabilities between them."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1), -math.inf)
    if attn_mask is not None:
        scores = scores + (_added(~attn_mask, scores.dtype) if attn_mask.dtype == torch.bool else attn_mask)
    chances = torch.softmax(scores, -1)
    if attn_mask is not None:
        chances = torch.where((scores == -math.inf).all(-1, keepdim=True), 0, chances)  # a row that may look at nothing
    return F.dropout(weights(chances), dropout_p) @ value


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that is added: -inf where a bool one is true."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf) if mask.dtype == torch.bool else mask


def separate(model: nn.Module) -> nn.Module:
    """Change every plain `nn.MultiheadAttention` of the model so, in place; subclasses and patched ones stay as they are."""
    for module in model.modules():
        if type(module) is nn.MultiheadAttention and "forward" not in vars(module) and not _computed(module):
            _separate(module)
    return model


def _computed(module: nn.MultiheadAttention) -> bool:
    """Whether a weight of it is no parameter: pruning and parametrizations compute it anew."""
    names = ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return any(name not in module._parameters for name in names)


def _separate(module: nn.MultiheadAttention) -> None:
    held = module._parameters
    joint, bias = held["in_proj_weight"], held["in_proj_bias"]
    weights = [held[f"{n}_proj_weight"] for n in "qkv"] if joint is None else joint.detach().chunk(3)
    biases = [None] * 3 if bias is None else bias.detach().chunk(3)
    for name, weight, part in zip(("query", "key", "value"), weights, biases, strict=True):
        assert weight is not None
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=part is not None, device="meta")
        layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=(weight if joint is None else joint).requires_grad)
        if part is not None and bias is not None:
            layer.bias = nn.Parameter(part.clone(), requires_grad=bias.requires_grad)
        layer.train(module.training)
        module.add_module(name, layer)
    for name in ("in_proj_weight", "in_proj_bias", *(f"{n}_proj_weight" for n in "qkv")):
        held[name] = None
    module.__class__ = SeparateAttention
