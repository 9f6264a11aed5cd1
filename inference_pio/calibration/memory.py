"""What a calibration needs in memory: its largest stage, told by what the stage holds at once.

The factors were measured (docs/calibration.md): they cover what numpy and ONNX Runtime need between two results.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from inference_pio.calibration.experts import CHUNK_TOKENS
from inference_pio.calibration.gptq import PANEL, ROWS, gram_dtype
from inference_pio.calibration.recipes import Recipe
from inference_pio.calibration.statistics import rows_of_each
from inference_pio.checkpoint.safetensors_header import TensorInfo
from inference_pio.graphs.formats import WeightFormat
from inference_pio.graphs.spec import DecoderSpec

BASE_BYTES = 205 << 20
"""Interpreter, numpy, onnx, ONNX Runtime and the graph itself."""
MATRIX_COPIES = 2
"""Copies of the largest weight besides the layer's own while it is rounded."""
ROUNDED_ROWS = 1.5
"""Copies, in float32, of what all weights of a layer read and give, while weights are rounded."""
RUN_ROWS = 1.9
"""The same while the layer runs."""
EXPERT_ROWS = 1.5
"""The same of an expert, for the tokens that it computes at a time."""

_LAYER = re.compile(r"\.layers\.(?P<layer>\d+)\.(?P<part>\w+)\.(?:experts\.(?P<expert>\d+)\.)?")


@dataclass
class Weights:
    """What a layer's weights come to without its experts', or those of one expert; in bytes but for `widths`.

    `floats` is all of them in float32, `matrix` the largest, `codes` what they are stored as once they are rounded, and
    `widths` their rows and columns together. `inputs` are the parts of a layer and the columns of their weights, for
    second-order rounding: weights of one part with rows of one length read the same input.
    """

    floats: int = 0
    matrix: int = 0
    codes: int = 0
    widths: int = 0
    inputs: set[tuple[str, int]] = field(default_factory=set)

    @property
    def gathered(self) -> int:
        """X^T X of all inputs, and the product of one more sample."""
        widths = [columns for _, columns in self.inputs]
        return sum(gram_dtype(width).itemsize * width**2 for width in widths) + 4 * max(widths, default=0) ** 2

    @property
    def factored(self) -> int:
        """As `factored_bytes`, of the widest input."""
        return factored_bytes(max((columns for _, columns in self.inputs), default=0))


@dataclass
class LayerSizes:
    """A layer's own weights, and its experts'."""

    own: Weights = field(default_factory=Weights)
    experts: defaultdict[str, Weights] = field(default_factory=lambda: defaultdict(Weights))

    @property
    def codes(self) -> int:
        """What the layer is stored as, in bytes."""
        return self.own.codes + self.expert_codes

    @property
    def expert_codes(self) -> int:
        """What its experts are stored as, in bytes."""
        return sum(expert.codes for expert in self.experts.values())


def sizes_of(
    tensors: Mapping[str, TensorInfo], recipe: Recipe, spec: DecoderSpec, second_order: bool
) -> tuple[LayerSizes, ...]:
    """The sizes of all layers that `spec` has."""
    layers = [LayerSizes() for _ in range(spec.layers)]
    for name, info in tensors.items():
        match = _LAYER.search(name)
        if match is None or int(match["layer"]) >= spec.layers:
            continue
        layer, chosen, size = layers[int(match["layer"])], recipe.format_of(name, spec), 4 * math.prod(info.shape)
        weights = layer.own
        if match["expert"] is not None:
            weights, chosen = layer.experts[match["expert"]], chosen.for_experts()
        weights.floats += size
        weights.matrix = max(weights.matrix, size)
        weights.codes += _stored(info.shape, chosen)
        if len(info.shape) == 2:
            weights.widths += sum(info.shape)
            if second_order and chosen.bits == 4:
                weights.inputs.add((match["part"], info.shape[1]))
    return tuple(layers)


def factored_bytes(width: int) -> int:
    """X^T X of one input beside its factor and what makes it, or the factor beside the rows that are worked on."""
    item = gram_dtype(width).itemsize
    narrowed = 4 * width**2 if item > 4 else 0
    factored = 2 * item * width**2 + max(narrowed, 16 * min(PANEL, width) * width)
    return max(factored, 4 * width**2 + 12 * ROWS * width)


def expected_memory(
    sizes: Sequence[LayerSizes], spec: DecoderSpec, samples: int, length: int, static_head_products: bool
) -> int:
    """The expected peak of resident memory of a calibration on `samples` of `length` tokens, in bytes."""
    by_head = 0
    if spec.mla is not None and static_head_products:
        by_head = spec.heads * (spec.mla.nope_dim + spec.mla.kv_rank)
    layers = (layer_memory(layer, by_head, spec.heads, samples, length) for layer in sizes)
    return BASE_BYTES + max(*layers, tower_memory(spec, length))


def layer_memory(layer: LayerSizes, by_head: int, heads: int, samples: int, length: int) -> int:
    """Bytes for the largest stage of a layer; `by_head` is the width of inputs that have a weight for each head."""
    row_bytes = 4 * (layer.own.widths + by_head)
    rounded_rows = int(ROUNDED_ROWS * row_bytes) * max(length, samples * rows_of_each(samples, length))
    return layer.own.floats + max(
        rounded_rows + layer.own.gathered,
        layer.expert_codes + max((_expert_memory(e, samples * length) for e in layer.experts.values()), default=0),
        layer.codes + MATRIX_COPIES * layer.own.matrix + rounded_rows + layer.own.factored,
        layer.codes + int(RUN_ROWS * row_bytes) * length + 4 * heads * length**2,
    )


def _expert_memory(expert: Weights, tokens: int) -> int:
    rows = int(4 * EXPERT_ROWS * expert.widths) * min(tokens, CHUNK_TOKENS)
    return 3 * expert.floats + rows + max(expert.gathered, expert.factored)


def tower_memory(spec: DecoderSpec, length: int) -> int:
    """Bytes for a block of the vision tower and an image of the largest size; see `scenes.SceneReader`."""
    vision = spec.vision
    if vision is None:
        return 0
    patches = max(length // 2, 1) * vision.merge_size**2
    weights = 4 * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size)
    merger = 4 * vision.merged_size * (vision.merged_size + spec.hidden_size)
    activations = 4 * patches * (8 * vision.hidden_size + 3 * vision.intermediate_size + 3 * vision.patch_values)
    return 2 * max(weights, merger) + activations + 8 * vision.heads * patches**2


def _stored(shape: tuple[int, ...], chosen: WeightFormat) -> int:
    """Bytes of a weight's codes and scales; none of what stays as it is."""
    if len(shape) != 2 or not chosen.quantized:
        return 0
    rows, columns = shape
    scales = 1 if chosen.integer_product else -(-columns // chosen.block(columns))
    return rows * (columns * chosen.bits // 8 + 4 * scales)
