"""Calibration without data: from batch norm statistics, followed through the graph or made into synthetic images."""

from overq.datafree.distill import distill
from overq.datafree.seen import seen
from overq.datafree.statistics import observe_statistics

__all__ = ["distill", "observe_statistics", "seen"]
