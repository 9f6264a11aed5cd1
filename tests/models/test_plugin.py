"""The public interface of a plugin, on the tiny artifact."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_pio import models
from inference_pio.artifact.jsonfile import json_bytes, read_json_object
from inference_pio.common import standard_plugin_interface
from inference_pio.models import ArtifactPlugin, PluginType, create_qwen3_4b_instruct_2507_plugin
from inference_pio.models.lookup import VARIABLE
from inference_pio.runtime import Engine, EngineConfig, Result, SamplingParams

FEW: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0, "ignore_eos": True}
USER = [{"role": "user", "content": "What is a class?"}]


@pytest.fixture(scope="module")
def int8(tiny_artifact: Callable[[str], Path]) -> Path:
    return tiny_artifact("int8")


@pytest.fixture
def plugin(int8: Path) -> Iterator[ArtifactPlugin]:
    made = create_qwen3_4b_instruct_2507_plugin(int8)
    yield made
    made.cleanup()


def test_both_places_have_the_same_types():
    for name in ("ModelPluginInterface", "ModelPluginMetadata", "PluginType"):
        assert getattr(models, name) is getattr(standard_plugin_interface, name)
    assert isinstance(create_qwen3_4b_instruct_2507_plugin(), models.ModelPluginInterface)


def test_making_one_and_asking_what_it_is_loads_nothing(plugin: ArtifactPlugin):
    assert plugin.metadata.num_parameters == 4_022_468_096
    assert plugin.supports_config(None)
    assert (plugin.is_loaded, plugin.is_active) == (False, False)


def test_life(plugin: ArtifactPlugin):
    assert plugin.initialize() is True
    assert (plugin.is_loaded, plugin.is_active) == (False, True)
    assert plugin.generate_text("import os", **FEW) != ""
    assert (plugin.is_loaded, plugin.is_active) == (True, True)
    engine = plugin.get_compiled_model()
    assert isinstance(engine, Engine) and plugin.load_model() is engine
    assert plugin.cleanup() is True and plugin.cleanup() is True
    assert (plugin.is_loaded, plugin.is_active) == (False, False)
    with pytest.raises(ValueError, match="closed"):
        engine.generate("import os")
    assert plugin.get_compiled_model() is not engine


def test_answers_are_those_of_the_engine(plugin: ArtifactPlugin, int8: Path):
    with Engine.open(int8) as engine:
        params = SamplingParams(**FEW)
        continued, answered = engine.generate("import os", params), engine.chat(USER, params)
        default = engine.chat(USER)
    assert isinstance(continued, Result)
    assert plugin.generate_text("import os", **FEW) == continued.text
    assert plugin.chat_completion(USER, **FEW) == answered.text
    result = plugin.chat_completion(USER, return_result=True, tools=None, **FEW)
    assert isinstance(result, Result) and result.token_ids == answered.token_ids
    assert plugin.infer(USER[0]["content"]) == default.text


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_no_text_gives_no_answer_and_a_warning(plugin: ArtifactPlugin, text: str):
    for ask in (plugin.infer, plugin.generate_text):
        with pytest.warns(UserWarning, match="was given no text"):
            assert ask(text) == ""
    assert not plugin.is_loaded


@pytest.mark.parametrize("data", [None, 5, b"text", ["text"], {"text": "hi"}])
def test_a_wrong_type_is_a_value_error(plugin: ArtifactPlugin, data: Any):
    for ask in (plugin.infer, plugin.generate_text):
        with pytest.raises(ValueError, match=f"takes a text, not {type(data).__name__}"):
            ask(data)
    assert not plugin.is_loaded


@pytest.mark.parametrize("messages", [None, "hi", [], [{"content": "x"}], [5]])
def test_wrong_messages_are_a_value_error(plugin: ArtifactPlugin, messages: Any):
    with pytest.raises(ValueError, match=r"messages must be a list|message 0"):
        plugin.chat_completion(messages)


def test_an_unknown_keyword_is_a_type_error(plugin: ArtifactPlugin):
    for ask in (
        lambda: plugin.generate_text("hi", max_tokens=5),
        lambda: plugin.generate_text("", max_tokens=5),
        lambda: plugin.chat_completion(USER, max_tokens=5),
        lambda: plugin.initialize(max_tokens=5),
        lambda: plugin.load_model({"max_tokens": 5}),
    ):
        with pytest.raises(TypeError, match=r"\(\) does not know max_tokens; it knows "):
            ask()
    with pytest.raises(TypeError, match="return_result"):
        plugin.generate_text("hi", return_result=True)
    assert not plugin.is_loaded


@pytest.mark.parametrize("sampling", [{"temperature": -1}, {"n": 2}, {"max_new_tokens": "many"}, {"thinking": True}])
def test_unusable_values_are_value_errors(plugin: ArtifactPlugin, sampling: dict[str, Any]):
    with pytest.raises(ValueError, match=r"temperature|one answer|max_new_tokens|no switch for thinking"):
        plugin.chat_completion(USER, **sampling)


def test_options_reach_the_engine(plugin: ArtifactPlugin):
    plugin.initialize(max_context=64, prefix_cache_bytes=0)
    first = plugin.load_model()
    assert first.context_length == 64 and first.prefix_cache.budget_bytes == 0
    assert plugin.load_model({"max_context": 64, "prefix_cache_bytes": 0}) is first
    second = plugin.load_model(EngineConfig(max_context=32))
    assert second is not first and second.context_length == 32
    assert plugin.load_model() is second
    plugin.initialize(max_context=16)
    assert not plugin.is_loaded and plugin.load_model().context_length == 16


def test_configurations(plugin: ArtifactPlugin):
    assert plugin.supports_config(EngineConfig()) and plugin.supports_config({"threads": 2})
    assert plugin.supports_config({"model_type": "qwen3", "hidden_size": 5})
    for wrong in ({"model_type": "llama"}, {"threads": 0}, {"thread": 2}, {"model_type": ["qwen3"]}, 5, "int8"):
        assert not plugin.supports_config(wrong)
    for config in (5, "fast"):
        with pytest.raises(ValueError, match="must be an EngineConfig or a mapping"):
            plugin.load_model(config)  # type: ignore[arg-type]


def test_memory_is_given_back(plugin: ArtifactPlugin):
    plugin.force_memory_cleanup()
    prompt = "def f(x):\n    return x\n" * 40
    result = plugin.get_compiled_model().generate(prompt, SamplingParams(**FEW))
    cache = plugin.get_compiled_model().prefix_cache
    assert cache.stats().held_bytes > 0
    plugin.force_memory_cleanup()
    assert cache.stats().held_bytes == 0 and plugin.is_loaded
    assert plugin.generate_text(prompt, **FEW) == result.text


def test_metadata_follows_the_artifact(int8: Path, tmp_path: Path):
    nothing = create_qwen3_4b_instruct_2507_plugin().metadata
    assert nothing.validation_passed is None
    assert nothing.required_memory_gb == pytest.approx(5.78, abs=0.01)
    assert 3 < nothing.compatibility["min_memory_gb"] < nothing.required_memory_gb
    tiny = create_qwen3_4b_instruct_2507_plugin(int8).metadata
    assert tiny.validation_passed is None and tiny.required_memory_gb < 0.6
    for passed in (True, False):
        judged = tmp_path / str(passed)
        shutil.copytree(int8, judged)
        manifest = read_json_object(judged / "manifest.json")
        manifest["accuracy"] = {"gate": "int8", "passed": passed, "metrics": {}, "failures": []}
        (judged / "manifest.json").write_bytes(json_bytes(manifest))
        assert create_qwen3_4b_instruct_2507_plugin(judged).metadata.validation_passed is passed
    with pytest.raises(ValueError, match="failed its accuracy gate"):
        create_qwen3_4b_instruct_2507_plugin(tmp_path / "False").load_model()
    opened = create_qwen3_4b_instruct_2507_plugin(tmp_path / "False")
    assert opened.load_model({"allow_failed": True}) and opened.cleanup()


def test_metadata_is_complete_and_json_ready():
    found = create_qwen3_4b_instruct_2507_plugin().metadata.to_dict()
    assert json_bytes(found)
    assert found["plugin_type"] == PluginType.TEXT_GENERATION.value and found["supported_modalities"] == ["text"]
    assert found["compatibility"]["python_version"] == ">=3.10" and found["created_at"].startswith("2026-")
    assert [name for name, value in found.items() if value in (None, "", [], {})] == ["validation_passed"]
    assert set(found) >= {
        *("name", "version", "author", "description", "plugin_type", "dependencies", "compatibility", "created_at"),
        *("updated_at", "model_architecture", "model_size", "required_memory_gb", "supported_modalities", "license"),
        *("tags", "model_family", "num_parameters", "validation_passed"),
    }


def test_artifacts_are_looked_up_when_they_are_needed(int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plugin = create_qwen3_4b_instruct_2507_plugin()
    for ask in (plugin.initialize, plugin.load_model, lambda: plugin.infer("hi")):
        with pytest.raises(ValueError, match="inference-pio export Qwen/Qwen3-4B-Instruct-2507"):
            ask()
    assert (plugin.is_loaded, plugin.is_active) == (False, False)
    (tmp_path / plugin.metadata.name).symlink_to(int8, target_is_directory=True)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert plugin.generate_text("import os", **FEW) != "" and plugin.cleanup()


@pytest.mark.parametrize("artifact", [5, b"x", ["a"]])
def test_a_path_is_a_path(artifact: Any):
    with pytest.raises(ValueError, match="artifact must be the path of a folder"):
        create_qwen3_4b_instruct_2507_plugin(artifact)
