"""Weights that stay in a file: prepacked once for this CPU, then mapped by ONNX Runtime instead of copied."""
