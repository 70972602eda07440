"""Generation with keys and values stored in the format: a cache for models of `transformers` whose attention's products are quantized.

    q = overq.quantize(model, samples, Recipe(..., products=LayerRule(fmt)))
    q.generate(ids, past_key_values=quantized_cache(q), max_new_tokens=20)

A key or value is quantized when it enters and never again. That is what the model computes without this cache, too, since each token's
vector is quantized by itself; attention then finds it done. Probabilities are not cached: their lanes are the keys, of which a longer
prompt has more, so only with a plain format for them (an override "*.weights", of eager attention "*.matmul1.first") is the answer after
n cached tokens that of n tokens at once.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from overq.errors import InputError, ToolError
from overq.nn.convert_sites import factors_of
from overq.nn.products import RUNNING
from overq.nn.sites import Factor
from overq.nn.spelled import spelled

KEYS = (("attention0", "key"), ("matmul0", "second"))  # of fused and of eager attention
VALUES = (("attention0", "value"), ("matmul1", "second"))


def quantized_cache(model: nn.Module) -> Any:
    """An empty `transformers` cache for one generation of a quantized model.

    InputError where the model's keys and values are not quantized; ToolError where `transformers` is not installed.
    """
    if not any(factor.site.role in ("key", "value", "second") for factor in factors_of(model).values()):
        raise InputError("the model's keys and values are float: quantize it with Recipe(products=...)")
    return _cache_class()(config=getattr(model, "config", None))


@cache
def _cache_class() -> Any:
    try:
        from transformers import DynamicCache
    except ImportError:
        raise ToolError("a cache for generation needs transformers, which is not installed: pip install 'overq[lm]'") from None

    class QuantizedCache(DynamicCache):
        """Keys and values as their formats spell them. bits: stored so far, states and steps included; costs: of a value, by factor."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.bits = 0.0
            self.costs: dict[str, float] = {}

        def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            running = RUNNING.calls
            products = {} if running is None else running.calls.products
            if not products:
                raise InputError(f"attention of layer {layer_idx} is float: its keys and values have no format to be stored in")
            keys, values = (_entered(self, products, which, x) for which, x in ((KEYS, key_states), (VALUES, value_states)))
            running.entered = True
            return super().update(keys, values, layer_idx, *args, **kwargs)

    return QuantizedCache


def _entered(store: Any, products: dict[str, dict[str, Factor]], which: tuple[tuple[str, str], ...], x: Tensor) -> Tensor:
    """Keys or values [..., tokens, width] in their format; as they are where the recipe leaves them float."""
    factor = next((products[key][role] for key, role in which if role in products.get(key, {})), None)
    if factor is None or factor.off:
        store.bits += x.numel() * x.element_size() * 8
        return x
    y = spelled(x, factor.fitted, factor.lanes, -1)
    if (known := factor.site.name) not in store.costs:
        store.costs[known] = factor.fitted.cost(x.detach().float().flatten(0, -2).cpu().numpy()).bits
    store.bits += x.numel() * store.costs[known]
    return y
