"""How the features of images enter a decoder.

The decoder looks its token table up itself, also where a vision tower is beside it: a graph of its own for the
embedding would cost every generated token a second session run, and would need the tied table, which is the head as
well, in two files. So the table is stored once and text takes exactly the way that it takes in a decoder without
images. The inputs below are optional: left out, they are a single row that changes nothing, broadcast to all tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.builder import GraphBuilder
from inference_pio.graphs.spec import DecoderSpec


@dataclass(frozen=True)
class ImageInputs:
    """The inputs of a decoder that carry images; without a vision tower there are none.

    `mask` bool [B, S] says which tokens are images, `embeds` float32 [B, S, C] are what stands there instead of the
    table's rows, and `addends` float32 [B, S, C], by layer, are added to that layer's result (DeepStack, Meng et al.
    2024, arXiv:2406.04334) and zero at other tokens. All may be [1, 1] in place of [B, S].
    """

    mask: ir.Value | None = None
    embeds: ir.Value | None = None
    addends: dict[int, ir.Value] = field(default_factory=dict)

    def insert(self, b: GraphBuilder, x_BSC: ir.Value) -> ir.Value:
        """The embedded tokens with the images in their places."""
        if self.mask is None:
            return x_BSC
        mask_BS1 = b.op("Unsqueeze", [self.mask, b.const([2])])
        return b.op("Where", [mask_BS1, self.embeds, x_BSC], name="insert_images")


def image_inputs(b: GraphBuilder, spec: DecoderSpec) -> ImageInputs:
    """Adds `image_mask`, `image_embeds` and `deepstack_embeds.N` to the graph where `spec` has a vision tower."""
    if spec.vision is None:
        return ImageInputs()
    width, layers = spec.hidden_size, range(min(len(spec.vision.deepstack), spec.layers))
    return ImageInputs(
        _optional_input(b, "image_mask", ir.DataType.BOOL),
        _optional_input(b, "image_embeds", ir.DataType.FLOAT, width),
        {layer: _optional_input(b, f"deepstack_embeds.{layer}", ir.DataType.FLOAT, width) for layer in layers},
    )


def _optional_input(b: GraphBuilder, name: str, dtype: ir.DataType, *tail: int) -> ir.Value:
    """An input [B or 1, S or 1, *tail] that is zero unless it is given."""
    value = b.input(name, dtype, ["image_batch", "image_length", *tail])
    value.const_value = ir.tensor(np.zeros((1, 1, *tail), dtype.numpy()), name=name)
    b.graph.register_initializer(value)
    return value
