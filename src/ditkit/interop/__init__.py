"""Weights of other projects in, ours out: diffusers, ONNX, the hub."""
