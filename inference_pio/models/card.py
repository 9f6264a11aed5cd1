"""What is known of a model before any artifact of it exists."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from inference_pio.models.interface import PluginType
from inference_pio.runtime.config import DEFAULT_PREFIX_CACHE_BYTES
from inference_pio.runtime.open_artifact import PROCESS_BYTES

ESTIMATED_TOKENS = 4096
"""Of context, in memory needs."""
_BLOCK = 128
"""Weights that share a float32 scale, in the recipes int8 and int4."""


@dataclass(frozen=True)
class ModelCard:
    """A published model.

    `checkpoint` is its id on the hub, `architecture` the `model_type` of its config.json. `parameters` are all that it
    has, `edge_parameters` those of the token table and the head among them (once where they are tied).
    `cache_values_per_token` are the numbers that all layers together remember of a token.
    """

    name: str
    checkpoint: str
    description: str
    plugin_type: PluginType
    architecture: str
    family: str
    size: str
    parameters: int
    edge_parameters: int
    cache_values_per_token: int
    modalities: tuple[str, ...]
    license: str
    tags: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    author: str = "The Inference-PIO authors"

    def weight_bytes(self, bits: int) -> int:
        """Bytes of the weights with `bits` per weight, the edges with at least 8, and their scales."""
        inner = self.parameters - self.edge_parameters
        return round((inner * _stored_bits(bits) + self.edge_parameters * _stored_bits(max(bits, 8))) / 8)

    def memory_bytes(self, bits: int) -> int:
        """What an engine needs for the weights and for ESTIMATED_TOKENS in a float32 cache."""
        return engine_bytes(self.weight_bytes(bits), 4 * self.cache_values_per_token)

    def export_command(self) -> str:
        """The command that makes an artifact where the plugin looks for it."""
        return f"inference-pio export {self.checkpoint} -o artifacts/{self.name} --precision int8 --verify"


def engine_bytes(weight_bytes: int, cache_bytes_per_token: int) -> int:
    """Memory of an engine with ESTIMATED_TOKENS of context and the default prefix cache."""
    return weight_bytes + ESTIMATED_TOKENS * cache_bytes_per_token + PROCESS_BYTES + DEFAULT_PREFIX_CACHE_BYTES


def _stored_bits(bits: int) -> float:
    return bits + 32 / _BLOCK
