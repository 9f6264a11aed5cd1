"""Export language models to verified, quantized ONNX artifacts and run them without PyTorch."""

from inference_pio.version import __version__

__all__ = ["__version__"]
