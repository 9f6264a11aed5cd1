"""Building blocks of decoders in standard ONNX; architectures compose them."""
