"""A third party's model: the facts of a checkpoint whose architecture can be exported, and the function that is found.

The entry point in `pyproject.toml` names the function; its name there is the plugin's name and its artifact's folder.
A model that needs more than an artifact implements `ModelPluginInterface` instead.
"""

from __future__ import annotations

from datetime import datetime, timezone

from inference_pio.models import ArtifactPlugin, ModelCard, PluginType

CARD = ModelCard(
    name="llama_3_2_1b_instruct",
    checkpoint="meta-llama/Llama-3.2-1B-Instruct",
    description="Dense model of 1.2 billion parameters that follows instructions; 16 layers.",
    plugin_type=PluginType.TEXT_GENERATION,
    architecture="llama",
    family="Llama",
    size="1.2B",
    parameters=1_235_814_400,
    edge_parameters=128_256 * 2048,
    cache_values_per_token=16 * 2 * 8 * 64,
    modalities=("text",),
    license="Llama 3.2 Community License",
    tags=("instruct", "chat"),
    created_at=datetime(2026, 11, 21, tzinfo=timezone.utc),
    updated_at=datetime(2026, 11, 21, tzinfo=timezone.utc),
    author="An example",
)


def create_llama_3_2_1b_instruct_plugin() -> ArtifactPlugin:
    """The plugin, which loads nothing yet."""
    return ArtifactPlugin(CARD)
