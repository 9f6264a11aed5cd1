"""The plugin interface of `inference_pio.models`."""

from inference_pio.models.interface import ModelPluginInterface, ModelPluginMetadata, PluginType

__all__ = ["ModelPluginInterface", "ModelPluginMetadata", "PluginType"]
