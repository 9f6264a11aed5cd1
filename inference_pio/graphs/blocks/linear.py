"""Linear layers and the token embedding."""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.source import WeightSource


def linear(
    b: GraphBuilder,
    source: WeightSource,
    x_BSK: ir.Value,
    name: str,
    shape: tuple[int, int],
    bias: bool = False,
) -> ir.Value:
    """`x @ weight.T + bias` -> [B, S, N]; the weight keeps the checkpoint's layout `shape` = (N, K)."""
    weight_NK = b.weight(f"{name}.weight", source.rows(f"{name}.weight", shape))
    y_BSN = matmul_transposed(b, x_BSK, weight_NK)
    if bias:
        bias_N = b.weight(f"{name}.bias", source.rows(f"{name}.bias", shape[:1]))
        y_BSN = b.op("Add", [y_BSN, bias_N], name="bias")
    return y_BSN


def matmul_transposed(b: GraphBuilder, x_BSK: ir.Value, weight_NK: ir.Value) -> ir.Value:
    """`x @ weight.T` -> [B, S, N]."""
    return b.op("MatMul", [x_BSK, b.op("Transpose", [weight_NK], {"perm": [1, 0]})])


def embedding(b: GraphBuilder, source: WeightSource, ids_BS: ir.Value, name: str, shape: tuple[int, int]) -> ir.Value:
    """Rows of the table `name` of `shape` (V, C) -> [B, S, C]."""
    table_VC = b.weight(f"{name}.weight", source.rows(f"{name}.weight", shape))
    return b.op("Gather", [table_VC, ids_BS], {"axis": 0})
