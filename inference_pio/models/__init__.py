"""Models as plugins: the four shipped ones, and those that other packages add through entry points."""

from inference_pio.models.card import ModelCard
from inference_pio.models.glm_4_7_flash import create_glm_4_7_flash_plugin
from inference_pio.models.interface import ModelPluginInterface, ModelPluginMetadata, PluginType
from inference_pio.models.plugin import ArtifactPlugin
from inference_pio.models.qwen3_4b_instruct_2507 import create_qwen3_4b_instruct_2507_plugin
from inference_pio.models.qwen3_coder_30b import create_qwen3_coder_30b_plugin
from inference_pio.models.qwen3_vl_2b_instruct import create_qwen3_vl_2b_instruct_plugin
from inference_pio.models.registry import FoundPlugin, create_plugin, find_plugins
from inference_pio.models.vision_plugin import VisionPlugin

__all__ = [
    "ArtifactPlugin",
    "FoundPlugin",
    "ModelCard",
    "ModelPluginInterface",
    "ModelPluginMetadata",
    "PluginType",
    "VisionPlugin",
    "create_glm_4_7_flash_plugin",
    "create_plugin",
    "create_qwen3_4b_instruct_2507_plugin",
    "create_qwen3_coder_30b_plugin",
    "create_qwen3_vl_2b_instruct_plugin",
    "find_plugins",
]
