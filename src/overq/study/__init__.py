"""Experiments: data, model and method in, records out."""
