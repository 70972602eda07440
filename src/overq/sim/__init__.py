"""Bit-exact, cycle-exact model of the weight-stationary array (design, section 2).

stepped.run(layer, machine)   clock by clock, can be watched
fast.run(layer, machine)      the same numbers, for whole networks
"""

from overq.sim import fast, stepped
from overq.sim.layer import ArrayLayer
from overq.sim.result import Result
from overq.sim.stepped import Snapshot
from overq.sim.timetable import fold_cycles, total_cycles
from overq.sim.traffic import Traffic, layer_traffic

__all__ = ["ArrayLayer", "Result", "Snapshot", "Traffic", "fast", "fold_cycles", "layer_traffic", "stepped", "total_cycles"]
