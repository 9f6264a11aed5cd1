"""CUDA kernels for GPUs from compute capability 6.1 on: int8 products and attention over an int8 cache by DP4A."""

from inference_pio.runtime.kernels.attention import Int8Cache, Lengths
from inference_pio.runtime.kernels.driver import DeviceArray, Driver, Limits
from inference_pio.runtime.kernels.kernels import Kernels
from inference_pio.runtime.kernels.products import Tokens, Weight, multiply, quantize

__all__ = [
    "DeviceArray",
    "Driver",
    "Int8Cache",
    "Kernels",
    "Lengths",
    "Limits",
    "Tokens",
    "Weight",
    "multiply",
    "quantize",
]
