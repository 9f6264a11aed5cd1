"""Qwen3-4B-Instruct-2507: facts and plugin."""

from __future__ import annotations

import os
from datetime import datetime, timezone

from inference_pio.models.card import ModelCard
from inference_pio.models.interface import PluginType
from inference_pio.models.plugin import ArtifactPlugin

CARD = ModelCard(
    name="qwen3_4b_instruct_2507",
    checkpoint="Qwen/Qwen3-4B-Instruct-2507",
    description="Dense model of 4.0 billion parameters that follows instructions, without reasoning; 36 layers.",
    plugin_type=PluginType.TEXT_GENERATION,
    architecture="qwen3",
    family="Qwen3",
    size="4.0B",
    parameters=4_022_468_096,
    edge_parameters=151_936 * 2560,
    cache_values_per_token=36 * 2 * 8 * 128,
    modalities=("text",),
    license="Apache-2.0",
    tags=("instruct", "chat", "tools", "multilingual"),
    created_at=datetime(2026, 11, 21, tzinfo=timezone.utc),
    updated_at=datetime(2026, 11, 21, tzinfo=timezone.utc),
)


def create_qwen3_4b_instruct_2507_plugin(artifact: str | os.PathLike[str] | None = None) -> ArtifactPlugin:
    """The plugin; it loads nothing yet. `artifact` is the folder of an artifact, else the plugin looks for one."""
    return ArtifactPlugin(CARD, artifact)
