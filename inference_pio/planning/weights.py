"""How many bytes and operations a model's weights are in a recipe, by part. Sizes come from the architecture itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType

from inference_pio.calibration.recipes import Recipe
from inference_pio.graphs.architectures import build_graphs
from inference_pio.graphs.formats import Activations, WeightFormat
from inference_pio.graphs.source import ShapeSource
from inference_pio.graphs.spec import DecoderSpec

FLOAT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Of what a decoder computes in: its norms, biases and scales are stored so. A vision tower computes in float32."""


class Part(Enum):
    """The parts of a model that may live in different places."""

    LAYERS = "layers"
    HEAD = "head"
    VISION = "vision tower"
    TABLE = "token table"
    EXPERTS = "experts"


class Product(Enum):
    """What multiplies: floating point, blocks of integers with float scales, or integers on both sides."""

    FLOATS = "floats"
    BLOCKS = "blocks"
    INTEGERS = "integers"

    @classmethod
    def of(cls, chosen: WeightFormat) -> Product:
        """That of a weight format."""
        if chosen.integer_product:
            return cls.INTEGERS
        rounded = chosen.quantized and chosen.activations is not Activations.EXACT
        return cls.BLOCKS if rounded else cls.FLOATS


@dataclass
class PartSize:
    """A part: bytes stored, bytes that one token reads, and operations per token (two per weight) by product.

    `quantized` says whether any of it is stored as integers.
    """

    stored: int = 0
    read: float = 0.0
    quantized: bool = False
    operations: dict[Product, float] = field(default_factory=dict)

    def add(self, stored: int, share: float, product: Product, operations: float) -> None:
        """Count a tensor of which a token needs `share`."""
        self.stored += stored
        self.read += stored * share
        self.operations[product] = self.operations.get(product, 0.0) + operations * share


def part_sizes(shapes: dict[str, tuple[int, ...]], spec: DecoderSpec, recipe: Recipe) -> dict[Part, PartSize]:
    """Sizes of the parts that tensors of these shapes make up. A tied head is one: the token table once more."""
    found: dict[Part, PartSize] = {}
    table = spec.edge_tensors[0]
    for name, shape in shapes.items():
        if name == table:
            size = _table_bytes(shape, recipe.format_of(name, spec), FLOAT_BYTES[recipe.compute])
            found[Part.TABLE] = PartSize(size, size / shape[0], recipe.format_of(name, spec).quantized)
            if spec.tied_embeddings:
                _count(found.setdefault(Part.HEAD, PartSize()), name, shape, spec, recipe, 1.0)
            continue
        part = _part(name, spec)
        _count(found.setdefault(part, PartSize()), name, shape, spec, recipe, _share(part, name, spec))
    return {part: found[part] for part in Part if part in found}


def artifact_bytes(sizes: dict[Part, PartSize], spec: DecoderSpec) -> int:
    """Bytes of the weights in an artifact, which holds a tied table once."""
    twice = sizes[Part.TABLE].stored if spec.tied_embeddings and Part.HEAD in sizes else 0
    return sum(size.stored for size in sizes.values()) - twice


def tensor_shapes(architecture: ModuleType, spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor that the model reads, as its builders ask for them."""
    source = ShapeSource()
    build_graphs(architecture, spec, source)
    return source.shapes


def _count(size: PartSize, name: str, shape: tuple[int, ...], spec: DecoderSpec, recipe: Recipe, share: float) -> None:
    chosen = recipe.format_of(name, spec)
    width = math.prod(shape[1:])
    if _part(name, spec) is Part.EXPERTS and spec.moe is not None:
        chosen = chosen.for_experts()
        block = chosen.expert_block(spec.hidden_size, spec.moe.width) or width
    else:
        block = chosen.block(width)
    operations = 2.0 * math.prod(shape) if len(shape) > 1 else 0.0
    floats = 4 if _part(name, spec) is Part.VISION else FLOAT_BYTES[recipe.compute]
    size.quantized |= chosen.quantized
    size.add(_stored_bytes(shape, chosen, block, floats), share, Product.of(chosen), operations)


def _table_bytes(shape: tuple[int, ...], chosen: WeightFormat, floats: int) -> int:
    """A table in blocks whose rows no block size divides stays in floats."""
    block = chosen.gather_block(shape[1]) or 0
    if chosen.quantized and not chosen.integer_product and not block:
        return math.prod(shape) * floats
    return _stored_bytes(shape, chosen, block, floats)


def _stored_bytes(shape: tuple[int, ...], chosen: WeightFormat, block: int, floats: int) -> int:
    """Bytes of a tensor [rows, ...] in a format, with a scale per `block` elements of a row.

    Scales, and the elements of vectors, take `floats` bytes each.
    """
    rows, width = shape[0], math.prod(shape[1:])
    if len(shape) == 1:
        return rows * floats
    if not chosen.quantized:
        return rows * width * chosen.bits // 8
    if chosen.integer_product:
        return rows * (width + floats)
    blocks = -(-width // block)
    return rows * blocks * (block * chosen.bits // 8 + floats)


def _part(name: str, spec: DecoderSpec) -> Part:
    if ".experts." in name:
        return Part.EXPERTS
    if name in spec.edge_tensors[:2]:
        return Part.HEAD
    return Part.LAYERS if name.startswith(f"{spec.prefix}.") else Part.VISION


def _share(part: Part, name: str, spec: DecoderSpec) -> float:
    """The share of a tensor that a token needs; in a vision tower, that a patch needs."""
    if part is Part.EXPERTS and spec.moe is not None:
        return spec.moe.active / spec.moe.count
    if part is Part.VISION and spec.vision is not None:
        if name.endswith("pos_embed.weight"):
            return 0.0  # looked up
        if ".merger" in name or "merger_list" in name:
            return 1 / spec.vision.merge_size**2
    return 1.0


def angle_bytes(spec: DecoderSpec, recipe: Recipe) -> int:
    """Bytes of one position in a stored table of rotary angles: cos and sin of half a head each.

    There is none for latents, whose angles the graph computes, nor where a token has three positions.
    """
    stored = spec.mla is None and spec.rope.sections is None
    return FLOAT_BYTES[recipe.compute] * spec.rope.dim if stored else 0


def layer_contexts(spec: DecoderSpec, context: int) -> Iterator[int]:
    """The positions that each layer attends to, for a token after `context` others."""
    for window in spec.windows:
        yield context if window is None else min(context, window)


def attention_operations(spec: DecoderSpec, positions: int) -> float:
    """Operations of one layer's attention for one token: products with `positions` keys and values.

    Latent attention works in the latent: keys of `head_dim` and values of `kv_rank` numbers for every head.
    """
    values = spec.head_dim if spec.mla is None else spec.mla.kv_rank
    return 2.0 * spec.heads * (spec.head_dim + values) * positions
