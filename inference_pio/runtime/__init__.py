"""The runtime: executes artifacts. Needs no torch, no transformers, no onnx."""

from inference_pio.runtime.config import EngineConfig, MapWeights, VerifyHashes
from inference_pio.runtime.engine import Engine
from inference_pio.runtime.result import Delta, FinishReason, Result, TokenLogprob, ToolCall, Usage
from inference_pio.runtime.sampling_params import SamplingParams

__all__ = [
    "Delta",
    "Engine",
    "EngineConfig",
    "FinishReason",
    "MapWeights",
    "Result",
    "SamplingParams",
    "TokenLogprob",
    "ToolCall",
    "Usage",
    "VerifyHashes",
]
