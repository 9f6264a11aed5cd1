"""What a model plugin is: the public interface, its metadata and its kinds. Third parties implement it as well."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inference_pio.runtime import Engine, EngineConfig, Result


class PluginType(str, enum.Enum):
    """What a plugin's model takes and gives."""

    TEXT_GENERATION = "text-generation"
    VISION_LANGUAGE = "vision-language"


@dataclass(frozen=True)
class ModelPluginMetadata:
    """What a plugin says about its model.

    `num_parameters` is the published model's; `required_memory_gb` (in 10**9 bytes) that of the artifact that was
    found, else of the default recipe, and `compatibility["min_memory_gb"]` that of the smallest one.
    `validation_passed` is the gate recorded in the artifact: None where none was found, or it was never verified.
    """

    name: str
    version: str
    author: str
    description: str
    plugin_type: PluginType
    dependencies: tuple[str, ...]
    compatibility: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    model_architecture: str
    model_size: str
    required_memory_gb: float
    supported_modalities: tuple[str, ...]
    license: str
    tags: tuple[str, ...]
    model_family: str
    num_parameters: int
    validation_passed: bool | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        values = dict(vars(self))
        values |= {"plugin_type": self.plugin_type.value, "compatibility": dict(self.compatibility)}
        values |= {name: value.isoformat() for name, value in values.items() if isinstance(value, datetime)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


class ModelPluginInterface(ABC):
    """A model that can be found by name, loaded and asked.

    Nothing is loaded before it is needed. A value of the wrong type raises ValueError, an unknown keyword TypeError.
    """

    @property
    @abstractmethod
    def metadata(self) -> ModelPluginMetadata:
        """What the model is and needs, without loading it."""

    @property
    @abstractmethod
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""

    @property
    @abstractmethod
    def is_active(self) -> bool:
        """Whether the plugin was initialized or loaded, and not cleaned up since."""

    @abstractmethod
    def initialize(self, **kwargs: Any) -> bool:
        """Settle where the model is and how it will be opened, without loading it; True, or an error."""

    @abstractmethod
    def load_model(self, config: EngineConfig | Mapping[str, Any] | None = None) -> Engine:
        """Load the model, unless it is loaded in just this way already."""

    @abstractmethod
    def infer(self, data: Any) -> str:
        """The answer to one message; loads the model when needed."""

    @abstractmethod
    def generate_text(self, prompt: str, **sampling: Any) -> str:
        """A continuation of `prompt`, without a chat template; loads the model when needed."""

    @abstractmethod
    def chat_completion(self, messages: Sequence[Mapping[str, Any]], **sampling: Any) -> str | Result:
        """The answer to a conversation; with `return_result=True` the full result."""

    @abstractmethod
    def supports_config(self, config: Any) -> bool:
        """Whether `load_model` takes this configuration, or the model has this `config.json`."""

    @abstractmethod
    def cleanup(self) -> bool:
        """Release everything; doing it twice is fine."""

    @abstractmethod
    def get_compiled_model(self) -> Engine:
        """The engine; loads the model when needed."""

    @abstractmethod
    def force_memory_cleanup(self) -> None:
        """Give back all memory but that of the loaded model itself."""
