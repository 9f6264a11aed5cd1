"""The plugin of a published model: finds its artifact, opens it when it is needed, and asks it."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from threading import Lock
from typing import Any

from inference_pio.artifact.manifest import Manifest
from inference_pio.artifact.process import return_freed_memory
from inference_pio.errors import BadInputError
from inference_pio.models.card import ModelCard, engine_bytes
from inference_pio.models.interface import ModelPluginInterface, ModelPluginMetadata
from inference_pio.models.lookup import FoundArtifact, find_artifact
from inference_pio.runtime import Engine, EngineConfig, Result, SamplingParams
from inference_pio.version import __version__

DEPENDENCIES = ("numpy", "tokenizers", "jinja2", "psutil", "onnxruntime")
"""What a loaded model needs; exporting one needs `inference-pio[export]`."""
PYTHON = ">=3.10"
_CHAT_FIELDS = ("return_result", "tools", "thinking", "thinking_budget", "cancel")


class ArtifactPlugin(ModelPluginInterface):
    """A plugin around an artifact of the model that `card` describes. Threads may share it.

    `artifact` is the artifact's folder; without it the plugin looks where `find_artifact` says. An artifact of any
    checkpoint of the same architecture will do, so fine-tunes work.
    """

    def __init__(self, card: ModelCard, artifact: str | os.PathLike[str] | None = None) -> None:
        self.card = card
        self._explicit = _path(artifact)
        self._config: EngineConfig | None = None
        self._engine: Engine | None = None
        self._active = False
        self._lock = Lock()

    @property
    def metadata(self) -> ModelPluginMetadata:
        """What the model is and needs; memory and gate are those of the artifact, where one is found."""
        card, manifest = self.card, self._manifest()
        memory = manifest.memory if manifest else None
        needed = engine_bytes(memory.weight_bytes, memory.cache_bytes_per_token) if memory else card.memory_bytes(8)
        accuracy = manifest.accuracy if manifest else None
        return ModelPluginMetadata(
            name=card.name,
            version=__version__,
            author=card.author,
            description=card.description,
            plugin_type=card.plugin_type,
            dependencies=DEPENDENCIES,
            compatibility={
                "python_version": PYTHON,
                "min_memory_gb": _gigabytes(card.memory_bytes(4)),
                "model_types": [card.architecture],
                "platforms": ["linux-x86_64"],
            },
            created_at=card.created_at,
            updated_at=card.updated_at,
            model_architecture=card.architecture,
            model_size=card.size,
            required_memory_gb=_gigabytes(needed),
            supported_modalities=card.modalities,
            license=card.license,
            tags=card.tags,
            model_family=card.family,
            num_parameters=card.parameters,
            validation_passed=accuracy.passed if accuracy else None,
        )

    @property
    def is_loaded(self) -> bool:
        return self._engine is not None

    @property
    def is_active(self) -> bool:
        return self._active

    def artifact(self) -> FoundArtifact:
        """The artifact that would be opened; raises BadInputError as `find_artifact` does."""
        return find_artifact(self.card, self._explicit)

    def initialize(self, **kwargs: Any) -> bool:
        """Take `artifact` and fields of EngineConfig, and find the artifact.

        What was loaded before in another way is closed. Raises TypeError for an unknown keyword, BadInputError (a
        ValueError) for unusable values and when there is no artifact.
        """
        _refuse_unknown("initialize", kwargs, ("artifact", *_names(EngineConfig)))
        explicit = _path(kwargs.pop("artifact")) if "artifact" in kwargs else self._explicit
        config = EngineConfig(**kwargs)
        find_artifact(self.card, explicit)
        with self._lock:
            if (explicit, config) != (self._explicit, self._config):
                self._close()
            self._explicit, self._config, self._active = explicit, config, True
        return True

    def load_model(self, config: EngineConfig | Mapping[str, Any] | None = None) -> Engine:
        """The engine, opened with `config`, by default that of `initialize`.

        Raises TypeError for a mapping with an unknown field, and what `find_artifact` and `Engine.open` raise.
        """
        wanted = None if config is None else _engine_config(config)
        with self._lock:
            chosen = wanted or self._config or EngineConfig()
            if self._engine is None or (wanted is not None and wanted != self._config):
                self._close()
                self._engine = Engine.open(self.artifact().path, chosen)
            self._config, self._active = chosen, True
            return self._engine

    def infer(self, data: Any) -> str:
        """The answer to one message of a user, a text, through the chat template; see `generate_text` for errors."""
        text = self._text(data, "infer")
        return str(self.chat_completion([{"role": "user", "content": text}])) if text else ""

    def generate_text(self, prompt: str, **sampling: Any) -> str:
        """A continuation of `prompt`; `sampling` are fields of SamplingParams.

        Empty or blank text gives "" with a warning. Raises BadInputError (a ValueError) for a wrong type and unusable
        values, TypeError for an unknown keyword.
        """
        params = _sampling("generate_text", sampling)
        text = self._text(prompt, "generate_text")
        if not text:
            return ""
        result = self.load_model().generate(text, params)
        assert isinstance(result, Result)  # one prompt, n = 1
        return result.text

    def chat_completion(self, messages: Sequence[Mapping[str, Any]], **sampling: Any) -> str | Result:
        """The answer to a conversation; `sampling` are fields of SamplingParams, and `tools`, `thinking`,
        `thinking_budget` and `cancel` of `Engine.chat`. With `return_result=True` the Result, which has usage,
        reasoning and tool calls; else its text.

        Raises as `generate_text` does.
        """
        _refuse_unknown("chat_completion", sampling, (*_CHAT_FIELDS, *_names(SamplingParams)))
        chat = {name: sampling.pop(name) for name in _CHAT_FIELDS if name in sampling}
        whole = chat.pop("return_result", False)
        result = self.load_model().chat(messages, _sampling("chat_completion", sampling), **chat)
        return result if whole else result.text

    def supports_config(self, config: Any) -> bool:
        """Whether `load_model` takes `config`; of a checkpoint's config.json, whether it is of this architecture."""
        if isinstance(config, Mapping) and "model_type" in config:
            return bool(config["model_type"] == self.card.architecture)
        try:
            return config is None or _engine_config(config) is not None
        except (TypeError, ValueError):
            return False

    def cleanup(self) -> bool:
        """Close the engine; requests afterwards load it again."""
        with self._lock:
            self._close()
            self._active = False
        return True

    def get_compiled_model(self) -> Engine:
        return self.load_model()

    def force_memory_cleanup(self) -> None:
        """Empty the prefix cache and give freed memory back to the system; what is loaded stays."""
        engine = self._engine
        if engine is not None:
            engine.prefix_cache.clear()
        gc.collect()
        return_freed_memory()

    def _text(self, text: Any, where: str) -> str:
        """The text, or "" with a warning where there is nothing in it."""
        if not isinstance(text, str):
            raise BadInputError(f"{where} of {self.card.name} takes a text, not {type(text).__name__}")
        if text.strip():
            return text
        warnings.warn(f"{where} of {self.card.name} was given no text, so there is no answer", stacklevel=3)
        return ""

    def _manifest(self) -> Manifest | None:
        try:
            return self.artifact().manifest
        except BadInputError:
            return None  # `artifact` says why

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = None


def _path(artifact: Any) -> Path | None:
    if artifact is not None and not isinstance(artifact, (str, os.PathLike)):
        raise BadInputError(f"artifact must be the path of a folder, not {type(artifact).__name__}")
    return None if artifact is None else Path(artifact)


def _engine_config(config: Any) -> EngineConfig:
    if isinstance(config, EngineConfig):
        return config
    if not isinstance(config, Mapping):
        raise BadInputError(f"config must be an EngineConfig or a mapping of its fields, not {type(config).__name__}")
    _refuse_unknown("load_model", config, _names(EngineConfig))
    return EngineConfig(**config)


def _sampling(where: str, sampling: Mapping[str, Any]) -> SamplingParams:
    _refuse_unknown(where, sampling, _names(SamplingParams))
    params = SamplingParams(**sampling)
    if params.n != 1:
        raise BadInputError(f"{where} gives one answer, not {params.n}: call it once per answer")
    return params


def _names(kind: type[EngineConfig] | type[SamplingParams]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _refuse_unknown(where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        raise TypeError(f"{where}() does not know {', '.join(unknown)}; it knows {', '.join(known)}")


def _gigabytes(size: int) -> float:
    return round(size / 1e9, 2)
