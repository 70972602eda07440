"""The PyTorch front end: observe a model, quantize it, save and load it."""

from overq.nn.convert import quantize, summary
from overq.nn.files import load, save
from overq.nn.measure import count_lanes
from overq.nn.observation import Observations, observe
from overq.nn.op import overwrite
from overq.nn.quantized import Quantized
from overq.nn.recipe import LayerRule, Recipe
from overq.nn.report import LayerReport, Summary
from overq.nn.sequential import observe_sequentially

__all__ = [
    "LayerReport",
    "LayerRule",
    "Observations",
    "Quantized",
    "Recipe",
    "Summary",
    "count_lanes",
    "load",
    "observe",
    "observe_sequentially",
    "overwrite",
    "quantize",
    "save",
    "summary",
]
