"""OverQ: opportunistic outlier quantization."""
