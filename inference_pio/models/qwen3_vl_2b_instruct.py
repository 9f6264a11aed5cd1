"""Qwen3-VL-2B-Instruct: facts and plugin."""

from __future__ import annotations

import os
from datetime import datetime, timezone

from inference_pio.models.card import ModelCard
from inference_pio.models.interface import PluginType
from inference_pio.models.vision_plugin import VisionPlugin

CARD = ModelCard(
    name="qwen3_vl_2b_instruct",
    checkpoint="Qwen/Qwen3-VL-2B-Instruct",
    description="Model of 2.1 billion parameters that reads text and images: 24 layers of vision, 28 of text.",
    plugin_type=PluginType.VISION_LANGUAGE,
    architecture="qwen3_vl",
    family="Qwen3-VL",
    size="2.1B",
    parameters=2_127_532_032,
    edge_parameters=151_936 * 2048,
    cache_values_per_token=28 * 2 * 8 * 128,
    modalities=("text", "image"),
    license="Apache-2.0",
    tags=("vision", "instruct", "chat", "tools"),
    created_at=datetime(2026, 11, 21, tzinfo=timezone.utc),
    updated_at=datetime(2026, 11, 21, tzinfo=timezone.utc),
)


def create_qwen3_vl_2b_instruct_plugin(artifact: str | os.PathLike[str] | None = None) -> VisionPlugin:
    """The plugin; it loads nothing yet. `artifact` is the folder of an artifact, else the plugin looks for one."""
    return VisionPlugin(CARD, artifact)
