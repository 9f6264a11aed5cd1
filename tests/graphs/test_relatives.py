"""qwen2, llama, mistral, qwen3_moe's window: every choice of a config.json means what it means to transformers."""

import json
from typing import Any

import pytest
from transformers import AutoConfig, LlamaConfig, MistralConfig, Qwen2Config

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.errors import BadInputError
from inference_pio.graphs.architectures import find_architecture
from inference_pio.graphs.spec import DecoderSpec

NAMES = ("qwen2", "llama", "mistral")
SMALL: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
}
WINDOWED = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
ABSENT = object()


def values_of(name: str, more: dict[str, Any]) -> dict[str, Any]:
    """The small config of an architecture with some keys changed; ABSENT removes one, None is JSON's null."""
    values = {"model_type": name, **SMALL, **more}
    return {key: value for key, value in values.items() if value is not ABSENT}


def read(name: str, **more: Any) -> DecoderSpec:
    config = ConfigReader(values_of(name, more))
    config.need_str("model_type")
    spec: DecoderSpec = find_architecture(name).read_config(config)
    config.finish()
    return spec


def theirs(name: str, **more: Any) -> Any:
    return AutoConfig.for_model(**values_of(name, more))


@pytest.mark.parametrize("name", NAMES)
def test_what_transformers_saves_is_understood(name: str):
    saved = json.loads(theirs(name).to_json_string(use_diff=False))
    config = ConfigReader(saved)
    config.need_str("model_type")
    spec = find_architecture(name).read_config(config)
    config.finish()
    assert spec == read(name)


@pytest.mark.parametrize(
    "more",
    [
        {},
        WINDOWED,
        {**WINDOWED, "max_window_layers": 0},
        {**WINDOWED, "max_window_layers": ABSENT, "num_hidden_layers": 30},
        {**WINDOWED, "use_sliding_window": False},
        {**WINDOWED, "sliding_window": None},
        {**WINDOWED, "sliding_window": ABSENT},
        {**WINDOWED, "layer_types": ["sliding_attention", "full_attention"] * 2},
    ],
    ids=str,
)
def test_windows_of_qwen2(more: dict[str, Any]):
    config = theirs("qwen2", **more)
    sliding = [config.sliding_window if kind == "sliding_attention" else None for kind in config.layer_types]
    assert list(read("qwen2", **more).windows) == sliding


@pytest.mark.parametrize(("value", "expected"), [(ABSENT, 4096), (None, None), (16, 16)], ids=["absent", "null", "16"])
def test_every_layer_of_mistral_slides_or_none_does(value: Any, expected: int | None):
    assert theirs("mistral", sliding_window=value).sliding_window == expected
    assert read("mistral", sliding_window=value).windows == (expected,) * 4


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


@pytest.mark.parametrize("use", [True, False, ABSENT], ids=["on", "off", "absent"])
@pytest.mark.parametrize("value", [ABSENT, None, 16], ids=["absent", "null", "16"])
def test_every_layer_of_qwen3_moe_slides_or_none_does(value: Any, use: Any):
    expected = theirs("qwen3_moe", sliding_window=value, use_sliding_window=use).sliding_window
    found = read("qwen3_moe", sliding_window=value, use_sliding_window=use, max_window_layers=2, **EXPERTS)
    assert found.windows == (expected,) * 4


def test_layer_types_mean_nothing_to_mistral_and_are_refused():
    with pytest.raises(BadInputError, match="does not know: 'layer_types'"):
        read("mistral", layer_types=["sliding_attention", "full_attention"] * 2)


def test_llama_has_no_window():
    assert read("llama").windows == (None,) * 4
    with pytest.raises(BadInputError, match="does not know: 'sliding_window'"):
        read("llama", sliding_window=16)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in NAMES for value in (ABSENT, 4)] + [("qwen2", None), ("llama", None)],
    ids=lambda value: "absent" if value is ABSENT else str(value),
)
def test_key_value_heads_are_those_of_transformers(name: str, value: Any):
    found = read(name, num_key_value_heads=value, num_attention_heads=64).kv_heads
    assert found == theirs(name, num_key_value_heads=value, num_attention_heads=64).num_key_value_heads


@pytest.mark.parametrize("name", NAMES)
def test_a_head_size_wins_over_the_one_that_follows_from_the_width(name: str):
    assert read(name).head_dim == 8
    assert read(name, head_dim=64).head_dim == 64
    assert theirs(name, head_dim=64).head_dim == 64


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_head_size_that_is_null_follows_from_the_width(name: str):
    assert read(name, head_dim=None).head_dim == theirs(name, head_dim=None).head_dim == 8


def test_biases():
    assert [(read(name).qkv_bias, read(name).output_bias, read(name).mlp_bias) for name in NAMES] == [
        (True, False, False),
        (False, False, False),
        (False, False, False),
    ]
    both = read("llama", attention_bias=True, mlp_bias=True)
    assert (both.qkv_bias, both.output_bias, both.mlp_bias) == (True, True, True)
    assert read("llama", mlp_bias=True).qkv_bias is False
    for name in ("qwen2", "mistral"):
        with pytest.raises(BadInputError, match="does not know: 'attention_bias'"):
            read(name, attention_bias=True)


@pytest.mark.parametrize("name", NAMES)
def test_no_norms_on_heads_and_an_untied_head_unless_it_is_said(name: str):
    assert not read(name).qk_norm and not read(name).tied_embeddings
    assert read(name, tie_word_embeddings=True).tied_embeddings


def test_slices_of_pretraining_change_no_number():
    assert read("llama", pretraining_tp=4) == read("llama")


@pytest.mark.parametrize("config", [Qwen2Config, LlamaConfig, MistralConfig], ids=NAMES)
def test_the_base_of_the_rotary_embedding_where_none_is_given(config: Any):
    assert config(**SMALL).rope_parameters["rope_theta"] == 10_000.0
    frequencies = read(config.model_type).rope.inverse_frequencies
    assert frequencies[1] == pytest.approx(10_000.0 ** (-2 / 8))
    assert read(config.model_type, rope_theta=5e5).rope.inverse_frequencies[1] == pytest.approx(5e5 ** (-2 / 8))


def test_the_published_configuration_of_llama_3():
    published = {
        **{"architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0},
        **{"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu"},
        **{"hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192, "mlp_bias": False},
        **{"max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 16},
        **{"num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_theta": 500000.0},
        "rope_scaling": {
            **{"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3"},
            "original_max_position_embeddings": 8192,
        },
        **{"tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0"},
        **{"use_cache": True, "vocab_size": 128256},
    }
    spec = read("llama", **published)
    assert (spec.head_dim, spec.kv_heads, spec.context_length, spec.tied_embeddings) == (64, 8, 131072, True)
    assert spec.rope != read("llama", **{**published, "rope_scaling": None}).rope
