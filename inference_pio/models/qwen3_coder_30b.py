"""Qwen3-Coder-30B-A3B-Instruct: facts and plugin."""

from __future__ import annotations

import os
from datetime import datetime, timezone

from inference_pio.models.card import ModelCard
from inference_pio.models.interface import PluginType
from inference_pio.models.plugin import ArtifactPlugin

CARD = ModelCard(
    name="qwen3_coder_30b",
    checkpoint="Qwen/Qwen3-Coder-30B-A3B-Instruct",
    description="Mixture of 128 experts for code and agents, 8 of them per token: 30.5 billion parameters, "
    "3.35 billion active; 48 layers.",
    plugin_type=PluginType.TEXT_GENERATION,
    architecture="qwen3_moe",
    family="Qwen3",
    size="30.5B",
    parameters=30_532_122_624,
    edge_parameters=2 * 151_936 * 2048,
    cache_values_per_token=48 * 2 * 4 * 128,
    modalities=("text",),
    license="Apache-2.0",
    tags=("code", "chat", "tools", "fill-in-the-middle", "mixture-of-experts"),
    created_at=datetime(2026, 11, 21, tzinfo=timezone.utc),
    updated_at=datetime(2026, 11, 21, tzinfo=timezone.utc),
)


def create_qwen3_coder_30b_plugin(artifact: str | os.PathLike[str] | None = None) -> ArtifactPlugin:
    """The plugin; it loads nothing yet. `artifact` is the folder of an artifact, else the plugin looks for one."""
    return ArtifactPlugin(CARD, artifact)
