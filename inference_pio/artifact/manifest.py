"""The manifest: what an artifact is, what it needs and the hash of every file. `manifest.schema.json` is its law."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from inference_pio.artifact.jsonfile import json_bytes
from inference_pio.artifact.schema import validate

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
CACHE_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
"""Bytes of one cached value, by the cache's dtype."""


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of the model as exported."""

    model_type: str
    parameters: int
    layers: int
    hidden_size: int
    vocab_size: int
    context_length: int


@dataclass(frozen=True)
class FileHash:
    """SHA-256 (hex) and size in bytes of a file."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Source:
    """The checkpoint: its folder's name and its files; `layers_kept` is set when the export was cut short."""

    name: str
    files: dict[str, FileHash]
    layers_kept: int | None = None


@dataclass(frozen=True)
class RecipeFacts:
    """The recipe by name, its weight formats by kind of tensor, and the formats of named tensors."""

    name: str
    weights: dict[str, str]
    overrides: dict[str, str]


@dataclass(frozen=True)
class Requires:
    """What must be there to run: package versions, CPU classes, operators as `domain::Name` with their counts."""

    packages: dict[str, str]
    cpu_classes: list[str]
    operators: dict[str, int]


@dataclass(frozen=True)
class TensorFacts:
    """An input or output of a graph; names in `shape` are free dimensions."""

    name: str
    dtype: str
    shape: list[int | str]


@dataclass(frozen=True)
class GraphFacts:
    """One graph of the ordered list that makes up a model."""

    role: str
    variant: str
    file: str
    inputs: list[TensorFacts]
    outputs: list[TensorFacts]
    layers: list[int]


@dataclass(frozen=True)
class CacheSpec:
    """The key/value cache: per layer one tensor of each of `kinds`, [batch, kv_heads, length, head_dim] of `dtype`.

    Tensors are called `past_key_values.N.KIND` and `present.N.KIND`; a `latent` is a row that keys and values of all
    heads are made of. `dtype` is float32, float16, bfloat16 or int8.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    kinds: list[str] = field(default_factory=lambda: ["key", "value"])

    @property
    def bytes_per_token(self) -> int:
        """What one token takes in all layers."""
        return len(self.kinds) * self.layers * self.kv_heads * self.head_dim * CACHE_ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class PositionSpec:
    """Rotary angles that are an input of the graphs, for tokens with three positions (time, height, width) or one.

    Row n of the tables belongs to the n-th token of the sequence: for each of `inverse_frequencies`,
    cos and sin of its product with the position that `streams` says (0 to 2), times `scaling`.
    """

    inverse_frequencies: list[float]
    streams: list[int]
    scaling: float


@dataclass(frozen=True)
class TableFacts:
    """Where the token table lies when the host looks rows up: `rows` x `columns` values of `dtype` in `file`.

    They are those of the checkpoint's `tensor`. Row n begins at `offset` + n * columns * item size. An int8 row is
    multiplied by its float32 scale, of which one per row lies at `scales_offset`; rows of floats have none.
    """

    tensor: str
    file: str
    offset: int
    rows: int
    columns: int
    dtype: str
    scales_offset: int | None = None


@dataclass(frozen=True)
class VisionFacts:
    """What the runtime must know of a vision tower; see `graphs.spec.VisionSpec`."""

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    position_side: int
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int


@dataclass(frozen=True)
class Contract:
    """How batches are padded, whether a row's cache is compact, and whether kernels round activations."""

    padding: str
    compact_cache: bool
    shared_cache_buffer: bool
    rounds_activations: bool


@dataclass(frozen=True)
class Memory:
    """Bytes of weights, of cache per token, and of the vision tower's activations per patch of an image."""

    weight_bytes: int
    cache_bytes_per_token: int
    image_bytes_per_patch: int = 0


@dataclass(frozen=True)
class Accuracy:
    """The recorded result of a verification."""

    gate: str
    passed: bool
    metrics: dict[str, float | None]
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Manifest:
    """Everything that `manifest.json` says; `dialect` is the form of the target's graphs, "" where there is one."""

    producer: str
    fingerprint: str
    model: ModelFacts
    source: Source
    target: str
    hardware: str
    recipe: RecipeFacts
    requires: Requires
    graphs: list[GraphFacts]
    cache: CacheSpec
    contract: Contract
    memory: Memory
    accuracy: Accuracy | None
    files: dict[str, FileHash]
    positions: PositionSpec | None = None
    vision: VisionFacts | None = None
    dialect: str = ""
    table: TableFacts | None = None
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def to_bytes(self) -> bytes:
        """The text of `manifest.json`; raises ValueError when it would break the schema."""
        problem = validate(self.to_dict(), schema())
        if problem:
            raise ValueError(problem)
        return json_bytes(self.to_dict())

    def with_accuracy(self, accuracy: Accuracy) -> Manifest:
        """The same manifest with the result of a verification."""
        return replace(self, accuracy=accuracy)

    @property
    def target_key(self) -> str:
        """Target and dialect as one word, "tensorrt/trt85"."""
        return f"{self.target}/{self.dialect}" if self.dialect else self.target

    @property
    def parameters(self) -> int:
        return self.model.parameters

    def graph(self, role: str) -> GraphFacts | None:
        """The first graph of a role, if there is one."""
        return next((graph for graph in self.graphs if graph.role == role), None)


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of the manifest."""
    return json.loads((Path(__file__).parent / "manifest.schema.json").read_text())


def fingerprint(
    files: dict[str, FileHash], *specifications: CacheSpec | PositionSpec | VisionFacts | TableFacts | None
) -> str:
    """SHA-256 over the hashes of `files` (graphs, weights, tokenizer) and what the runtime computes by."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {files[name].sha256} {files[name].size}\n".encode())
    for specification in specifications:
        if specification is not None:
            digest.update(json_bytes(asdict(specification)))
    return digest.hexdigest()
