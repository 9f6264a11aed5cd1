"""What a calibration needs in memory: its largest stage, told by what the stage holds at once.

The factors were measured (docs/calibration.md): they cover what numpy and ONNX Runtime need between two results.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference_pio.calibration.experts import CHUNK_TOKENS
from inference_pio.calibration.gptq import PANEL, ROWS, gram_dtype
from inference_pio.calibration.recipes import Recipe
from inference_pio.calibration.statistics import rows_of_each
from inference_pio.checkpoint.safetensors_header import TensorInfo
from inference_pio.graphs.formats import WeightFormat
from inference_pio.graphs.spec import DecoderSpec

BASE_BYTES = 170 << 20
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


@dataclass(frozen=True)
class Sizes:
    """The most that comes into memory of a checkpoint's weights, in bytes but for the widths.

    `layer` is a layer in float32 without its experts, `matrix` its largest weight, `codes` what it is stored as once it
    is rounded, `widths` the rows and columns of all its weights together. `expert` is one expert in float32,
    `expert_codes` what all of a layer are stored as, `expert_widths` as `widths`. Second-order rounding of a layer
    takes `gathered` while it runs and `factored` while it is rounded, that of an expert at most `expert_gram`.
    """

    layer: int
    matrix: int
    codes: int
    widths: int
    gathered: int
    factored: int
    expert: int
    expert_codes: int
    expert_widths: int
    expert_gram: int


class _Group:
    """Sums over the weights of one layer or expert."""

    def __init__(self) -> None:
        self.floats = self.matrix = self.codes = self.widths = 0
        self.inputs: set[tuple[str, int]] = set()
        """Of weights for second-order rounding; those of one part with rows of one length read the same input."""

    @property
    def gathered(self) -> int:
        return gathered_bytes([columns for _, columns in self.inputs])

    @property
    def factored(self) -> int:
        return factored_bytes(max((columns for _, columns in self.inputs), default=0))


def sizes_of(tensors: Mapping[str, TensorInfo], recipe: Recipe, spec: DecoderSpec, second_order: bool) -> Sizes:
    """The sizes of the layers that `spec` has."""
    layers, experts = defaultdict[str, _Group](_Group), defaultdict[str, _Group](_Group)
    expert_codes = Counter[str]()
    for name, info in tensors.items():
        match = _LAYER.search(name)
        if match is None or int(match["layer"]) >= spec.layers:
            continue
        chosen, size = recipe.format_of(name, spec), math.prod(info.shape)
        is_expert = match["expert"] is not None
        group = experts[match[0]] if is_expert else layers[match["layer"]]
        group.floats += 4 * size
        group.matrix = max(group.matrix, 4 * size)
        group.widths += sum(info.shape) if len(info.shape) == 2 else 0
        codes = _stored(info.shape, chosen.for_experts() if is_expert else chosen)
        group.codes += codes
        expert_codes[match["layer"]] += codes if is_expert else 0
        if len(info.shape) == 2 and second_order and chosen.bits == 4:
            group.inputs.add((match["part"], info.shape[1]))
    return Sizes(
        layer=max(group.floats for group in layers.values()),
        matrix=max(group.matrix for group in layers.values()),
        codes=max(group.codes for group in layers.values()),
        widths=max(group.widths for group in layers.values()),
        gathered=max(group.gathered for group in layers.values()),
        factored=max(group.factored for group in layers.values()),
        expert=max((group.floats for group in experts.values()), default=0),
        expert_codes=max(expert_codes.values()),
        expert_widths=max((group.widths for group in experts.values()), default=0),
        expert_gram=max((max(group.gathered, group.factored) for group in experts.values()), default=0),
    )


def gathered_bytes(widths: Sequence[int]) -> int:
    """X^T X of all inputs of these widths, and the product of one more sample."""
    return sum(gram_dtype(width).itemsize * width**2 for width in widths) + 4 * max(widths, default=0) ** 2


def factored_bytes(width: int) -> int:
    """X^T X of one input beside its factor and what makes it, or the factor beside the rows that are worked on."""
    item = gram_dtype(width).itemsize
    narrowed = 4 * width**2 if item > 4 else 0
    factored = 2 * item * width**2 + max(narrowed, 16 * min(PANEL, width) * width)
    return max(factored, 4 * width**2 + 12 * ROWS * width)


def expected_memory(sizes: Sizes, spec: DecoderSpec, samples: int, length: int, static_head_products: bool) -> int:
    """The expected peak of resident memory of a calibration on `samples` of `length` tokens, in bytes."""
    row_bytes = 4 * sizes.widths
    if spec.mla is not None and static_head_products:
        row_bytes += 4 * spec.heads * (spec.mla.nope_dim + spec.mla.kv_rank)
    rounded_rows = int(ROUNDED_ROWS * row_bytes) * max(length, samples * rows_of_each(samples, length))
    run = int(RUN_ROWS * row_bytes) * length + 4 * spec.heads * length**2
    tokens = min(samples * length, CHUNK_TOKENS)
    stored = sizes.codes + sizes.expert_codes
    stages = (
        rounded_rows + sizes.gathered,
        3 * sizes.expert + int(4 * EXPERT_ROWS * sizes.expert_widths) * tokens + sizes.expert_gram + sizes.expert_codes,
        MATRIX_COPIES * sizes.matrix + rounded_rows + sizes.factored + stored,
        run + stored,
    )
    return BASE_BYTES + max(sizes.layer + max(stages), tower_memory(spec, length))


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
