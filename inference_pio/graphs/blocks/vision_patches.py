"""From pixels to embedded patches: a linear layer over each patch, and learned positions resampled to its grid."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.blocks.linear import matmul_transposed
from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import VisionSpec

TAPS = 4
"""Learned positions that each patch's own is interpolated from (bilinear)."""


def patch_embedding(b: GraphBuilder, source: WeightSource, spec: VisionSpec, prefix: str, pixels: ir.Value) -> ir.Value:
    """Patches [I, P, channels * frames * height * width] -> [I, P, C].

    The published convolution has its kernel's size as its stride, which makes it a linear layer over patches.
    """
    name = f"{prefix}.patch_embed.proj"
    size = spec.patch_size
    shape = (spec.hidden_size, spec.channels, spec.temporal_patch_size, size, size)
    weight_NK = b.weight(f"{name}.weight", source.matrix(f"{name}.weight", shape))
    bias_N = b.weight(f"{name}.bias", source.rows(f"{name}.bias", (spec.hidden_size,)))
    return b.op("Add", [matmul_transposed(b, pixels, weight_NK), bias_N], name="patches")


def patch_positions(
    b: GraphBuilder, source: WeightSource, spec: VisionSpec, prefix: str, indices_P4: ir.Value, weights_P4: ir.Value
) -> ir.Value:
    """The learned positions of patches, interpolated from four of the table by given weights -> [P, C]."""
    name = f"{prefix}.pos_embed.weight"
    table = b.weight(name, source.rows(name, (spec.position_side**2, spec.hidden_size)))
    # One tap after the other: all four at once would take four times the memory of the patches.
    total: ir.Value | None = None
    for tap in range(TAPS):
        index_P = b.op("Gather", [indices_P4, b.const(tap)], {"axis": 1})
        weight_P1 = b.op("Gather", [weights_P4, b.const([tap])], {"axis": 1})
        part_PC = b.op("Mul", [b.op("Gather", [table, index_P], {"axis": 0}), weight_P1])
        total = part_PC if total is None else b.op("Add", [total, part_PC])
    assert total is not None
    return total


def axial_angles(
    b: GraphBuilder, spec: VisionSpec, positions_P2: ir.Value, pixels_IPK: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """cos and sin of patches at (row, column): half of the frequencies by row, half by column -> two [I, P, D / 2]."""
    frequencies = b.const([spec.inverse_frequencies], np.float32)
    places = b.op("Cast", [positions_P2], {"to": int(ir.DataType.FLOAT)})
    parts = [
        b.op("Mul", [b.op("Gather", [places, b.const([axis])], {"axis": 1}), frequencies], name=f"{word}_angles")
        for axis, word in enumerate(("row", "column"))
    ]
    angles_PD = b.op("Concat", parts, {"axis": 1})
    # RotaryEmbedding wants the angles of every image, although those of one run share them.
    images_1 = b.op("Shape", [pixels_IPK], {"start": 0, "end": 1})
    shape = b.op("Concat", [images_1, b.const([1, 1])], {"axis": 0})
    angles_IPD = b.op("Expand", [b.op("Unsqueeze", [angles_PD, b.const([0])]), shape])
    return b.op("Cos", [angles_IPD]), b.op("Sin", [angles_IPD])
