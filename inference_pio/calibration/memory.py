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

BASE_BYTES = 160 << 20
"""Interpreter, numpy, onnx, ONNX Runtime and the graph itself."""
MATRIX_COPIES = 2
"""Copies of the largest weight besides the layer's own: rounded one way and another."""
ROW_COPIES = 2.2
"""Copies of what all weights of a layer read and give, in float32, while it runs or is judged."""
EXPERT_COPIES = 1.5
"""Copies of what all weights of an expert read and give for the tokens that it computes at a time."""

_LAYER = re.compile(r"\.layers\.(?P<layer>\d+)\.(?P<part>\w+)\.(?:experts\.(?P<expert>\d+)\.)?")


@dataclass(frozen=True)
class Sizes:
    """The most that comes into memory of a checkpoint's weights, in bytes but for the widths.

    `layer` is a layer in float32 without its experts, `matrix` its largest weight, `codes` what it is stored as once it
    is rounded, `widths` the rows and columns of all its weights together. `expert` is one expert in float32,
    `expert_codes` what all of a layer are stored as, `expert_widths` as `widths`. `gram` is what second-order rounding
    of a layer takes, `expert_gram` of an expert.
    """

    layer: int
    matrix: int
    codes: int
    widths: int
    gram: int
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
    def gram(self) -> int:
        return second_order_bytes([columns for _, columns in self.inputs])


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
        gram=max(group.gram for group in layers.values()),
        expert=max((group.floats for group in experts.values()), default=0),
        expert_codes=max(expert_codes.values()),
        expert_widths=max((group.widths for group in experts.values()), default=0),
        expert_gram=max((group.gram for group in experts.values()), default=0),
    )


def second_order_bytes(widths: Sequence[int]) -> int:
    """What second-order rounding takes of weights that read inputs of these widths.

    It is the most of three stages: X^T X of all inputs beside the product of one more sample; the widest beside its
    factor and what makes it; this factor beside the rows that are worked on.
    """
    if not widths:
        return 0
    grams, widest = [gram_dtype(width).itemsize * width**2 for width in widths], max(widths)
    gathered = sum(grams) + 4 * widest**2
    narrowed = 4 * widest**2 if gram_dtype(widest).itemsize > 4 else 0
    factored = 2 * max(grams) + max(narrowed, 16 * min(PANEL, widest) * widest)
    rounded = 4 * widest**2 + 12 * ROWS * widest
    return max(gathered, factored, rounded)


def expected_memory(sizes: Sizes, spec: DecoderSpec, samples: int, length: int, static_head_products: bool) -> int:
    """The expected peak of resident memory of a calibration on `samples` of `length` tokens, in bytes."""
    held = sizes.layer + sizes.codes + sizes.expert_codes
    widths = sizes.widths
    if spec.mla is not None and static_head_products:
        widths += spec.heads * (spec.mla.nope_dim + spec.mla.kv_rank)
    rows = max(length, samples * rows_of_each(samples, length))
    run = MATRIX_COPIES * sizes.matrix + int(4 * ROW_COPIES * rows * widths) + 8 * spec.heads * length**2
    tokens = min(samples * length, CHUNK_TOKENS)
    experts = 3 * sizes.expert + int(4 * EXPERT_COPIES * tokens * sizes.expert_widths) + sizes.expert_gram
    return BASE_BYTES + max(held + max(run + sizes.gram, experts), tower_memory(spec, length))


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
