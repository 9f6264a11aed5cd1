"""GLM-4.7-Flash: facts and plugin."""

from __future__ import annotations

import os
from datetime import datetime, timezone

from inference_pio.models.card import ModelCard
from inference_pio.models.interface import PluginType
from inference_pio.models.plugin import ArtifactPlugin

CARD = ModelCard(
    name="glm_4_7_flash",
    checkpoint="zai-org/GLM-4.7-Flash",
    description="Mixture of 64 experts, 4 of them per token, and a shared one, with latent attention: 29.9 billion "
    "parameters, 3.9 billion active; 47 layers.",
    plugin_type=PluginType.TEXT_GENERATION,
    architecture="glm4_moe_lite",
    family="GLM",
    size="29.9B",
    parameters=29_943_393_920,
    edge_parameters=2 * 154_880 * 2048,
    cache_values_per_token=47 * (512 + 64),
    modalities=("text",),
    license="MIT",
    tags=("chat", "reasoning", "tools", "mixture-of-experts"),
    created_at=datetime(2026, 11, 21, tzinfo=timezone.utc),
    updated_at=datetime(2026, 11, 21, tzinfo=timezone.utc),
)


def create_glm_4_7_flash_plugin(artifact: str | os.PathLike[str] | None = None) -> ArtifactPlugin:
    """The plugin; it loads nothing yet. `artifact` is the folder of an artifact, else the plugin looks for one."""
    return ArtifactPlugin(CARD, artifact)
