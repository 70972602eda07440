"""Networks from and to other tools' files: ONNX in."""

from overq.exchange.network import OnnxNetwork, from_onnx

__all__ = ["OnnxNetwork", "from_onnx"]
