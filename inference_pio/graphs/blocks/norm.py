"""RMS normalization (Zhang, Sennrich 2019, arXiv:1910.07467) and layer normalization (Ba et al., arXiv:1607.06450)."""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.source import WeightSource


def rms_norm(b: GraphBuilder, source: WeightSource, x: ir.Value, name: str, size: int, epsilon: float) -> ir.Value:
    """`x / sqrt(mean(x^2) + epsilon) * weight` over the last axis of `size`; same shape as `x`."""
    weight = b.weight(f"{name}.weight", source.rows(f"{name}.weight", (size,)))
    attributes = {"axis": -1, "epsilon": epsilon, "stash_type": 1}
    return b.op("RMSNormalization", [x, weight], attributes, name=name.rsplit(".", 1)[-1])


def layer_norm(b: GraphBuilder, source: WeightSource, x: ir.Value, name: str, size: int, epsilon: float) -> ir.Value:
    """`(x - mean) / sqrt(variance + epsilon) * weight + bias` over the last axis of `size`; same shape as `x`."""
    weight, bias = (b.weight(f"{name}.{kind}", source.rows(f"{name}.{kind}", (size,))) for kind in ("weight", "bias"))
    attributes = {"axis": -1, "epsilon": epsilon, "stash_type": 1}
    return b.op("LayerNormalization", [x, weight, bias], attributes, name=name.rsplit(".", 1)[-1])
