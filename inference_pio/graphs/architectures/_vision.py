"""The vision tower's skeleton: patches, positions, blocks, mergers."""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.graphs.blocks.vision_blocks import patch_merger, vision_block
from inference_pio.graphs.blocks.vision_patches import TAPS, axial_angles, patch_embedding, patch_positions
from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import VisionSpec


def build_vision_tower(spec: VisionSpec, source: WeightSource, prefix: str, out: int) -> ir.Model:
    """The canonical graph of a vision tower, for images (or pairs of frames) of one size at a time.

    Inputs: `pixel_values` float32 [I, P, patch_values], patches in the order of the tokens that they are merged into;
    and what their places in the grid imply, the same for all images: `position_indices` int64 and `position_weights`
    float32 [P, 4], the learned positions to interpolate, and `patch_positions` int64 [P, 2], row and column.
    Outputs: `image_features` float32 [I, M, out], and `deepstack_features.N` alike.
    """
    b = GraphBuilder()
    pixels = b.input("pixel_values", ir.DataType.FLOAT, ["images", "patches", spec.patch_values])
    indices_P4 = b.input("position_indices", ir.DataType.INT64, ["patches", TAPS])
    weights_P4 = b.input("position_weights", ir.DataType.FLOAT, ["patches", TAPS])
    positions_P2 = b.input("patch_positions", ir.DataType.INT64, ["patches", 2])
    with b.scope("positions"):
        learned_PC = patch_positions(b, source, spec, prefix, indices_P4, weights_P4)
        angles = axial_angles(b, spec, positions_P2, pixels)
    with b.scope("patches"):
        x_IPC = b.op("Add", [patch_embedding(b, source, spec, prefix, pixels), learned_PC], name="embedded")
    features: list[ir.Value] = []
    for layer in range(spec.depth):
        with b.scope(f"blocks.{layer}"):
            x_IPC = vision_block(b, source, spec, x_IPC, f"{prefix}.blocks.{layer}", angles)
        if layer in spec.deepstack:
            index = len(features)
            with b.scope(f"deepstack.{index}"):
                name = f"{prefix}.deepstack_merger_list.{index}"
                features.append(patch_merger(b, source, spec, x_IPC, name, out, norm_merged=True))
    with b.scope("merger"):
        merged = patch_merger(b, source, spec, x_IPC, f"{prefix}.merger", out, norm_merged=False)
    shape: list[int | str] = ["images", "tokens", out]
    b.output(merged, "image_features", ir.DataType.FLOAT, shape)
    for index, value in enumerate(features):
        b.output(value, f"deepstack_features.{index}", ir.DataType.FLOAT, shape)
    return b.model()
