"""A quantized model in integers only: weights, t, digits, states, accumulators, multiplier and shift.

net = integer_network(overq.quantize(model, samples, recipe))
logits = net(images)                        # int64; net.unit is what one unit is worth
net.run(net.enter(images), watch)           # watch(layer, t, accumulators) for every layer
"""

from overq.integer.layer import IntegerLayer, integer_layer
from overq.integer.network import IntegerNetwork, integer_network
from overq.integer.scaling import Scaling, scaling

__all__ = ["IntegerLayer", "IntegerNetwork", "Scaling", "integer_layer", "integer_network", "scaling"]
