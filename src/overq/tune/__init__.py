"""On top of quantization: what each layer alone loses, formats under a budget of bits, orders of channels that a network carries."""

from overq.tune.assign import Assignment, assign, best_assignment
from overq.tune.reorder_network import reorder_network
from overq.tune.sensitivity import Sensitivity, sensitivity

__all__ = ["Assignment", "Sensitivity", "assign", "best_assignment", "reorder_network", "sensitivity"]
