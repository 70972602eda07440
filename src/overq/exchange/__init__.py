"""Networks from and to other tools' files: ONNX in and out, packed files for firmware, vectors for testbenches."""

from overq.exchange.network import OnnxNetwork, from_onnx
from overq.exchange.onnx_out import to_onnx

__all__ = ["OnnxNetwork", "from_onnx", "to_onnx"]
