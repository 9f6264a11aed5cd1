"""What a Qwen3 config.json may say, what it means, and what is refused by name."""

import json
from dataclasses import replace
from typing import Any

import pytest
from transformers import Qwen3Config

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.errors import BadInputError
from inference_pio.graphs.architectures import find_architecture, supported
from inference_pio.graphs.architectures.qwen3 import read_config
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.tiny import tiny_checkpoint

SMALL: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 2048,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
}
WINDOWED = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}


def read(ignored: tuple[str, ...] = (), **more: Any) -> DecoderSpec:
    """The spec of the small config with some keys changed; None removes a key."""
    values = {key: value for key, value in {**SMALL, **more}.items() if value is not None}
    config = ConfigReader(values, ignored=frozenset(ignored))
    config.need_str("model_type")
    spec = read_config(config)
    config.finish()
    return spec


def test_the_published_config_is_understood():
    config = ConfigReader(json.loads((tiny_checkpoint("qwen3") / "config.json").read_text()))
    config.need_str("model_type")
    spec = read_config(config)
    config.finish()
    assert (spec.layers, spec.heads, spec.kv_heads, spec.head_dim) == (5, 4, 2, 64)
    assert spec.windows == (None,) * 5
    assert spec.tied_embeddings


def test_both_generations_of_transformers_mean_the_same():
    old = read(torch_dtype="bfloat16", rope_theta=1e6, rope_scaling=None, transformers_version="4.51.0")
    new = read(dtype="bfloat16", rope_parameters={"rope_theta": 1e6, "rope_type": "default"})
    assert old == new


def test_what_transformers_saves_is_understood():
    """Every key that transformers writes is either read or known to be harmless."""
    saved = json.loads(Qwen3Config(**SMALL).to_json_string(use_diff=False))
    config = ConfigReader(saved)
    config.need_str("model_type")
    spec = read_config(config)
    config.finish()
    assert spec == read()


@pytest.mark.parametrize(
    "more",
    [
        {},
        WINDOWED,
        {**WINDOWED, "max_window_layers": 0},
        {**WINDOWED, "max_window_layers": 4},
        {**WINDOWED, "max_window_layers": None, "num_hidden_layers": 30},
        {**WINDOWED, "use_sliding_window": False},
        {**WINDOWED, "sliding_window": None},
        {"sliding_window": 16, "max_window_layers": 1},
        {**WINDOWED, "layer_types": ["sliding_attention", "full_attention"] * 2},
        {**WINDOWED, "layer_types": ["full_attention"] * 4},
        {"layer_types": ["full_attention"] * 4},
        {"layer_types": ["full_attention"] * 4, "sliding_window": 16},
    ],
    ids=str,
)
def test_windows_are_those_of_transformers(more):
    spec = read(**more)
    theirs = Qwen3Config(**{key: value for key, value in {**SMALL, **more}.items() if value is not None})
    kinds = theirs.layer_types
    assert [window is not None for window in spec.windows] == [kind == "sliding_attention" for kind in kinds]
    assert {window for window in spec.windows if window is not None} <= {theirs.sliding_window}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"layer_types": ["sliding_attention"] * 4}, "names sliding layers, but"),
        ({"layer_types": ["sliding_attention"] * 4, "sliding_window": 16}, "use_sliding_window is off"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types has 3 entries for 4 layers"),
        ({"layer_types": ["full_attention"] * 5}, "layer_types has 5 entries for 4 layers"),
        ({"layer_types": []}, "layer_types has 0 entries for 4 layers"),
        ({"layer_types": ["chunked_attention"] * 4}, "layer type 'chunked_attention'"),
        ({"layer_types": ["full_attention", "linear_attention"] * 2}, "layer type 'linear_attention'"),
        ({"layer_types": "full_attention"}, "layer_types is 'full_attention', not a list"),
        ({"layer_types": [1, 2, 3, 4]}, "layer_types is 1, not a string"),
        ({**WINDOWED, "sliding_window": 0}, "sliding_window is 0"),
        ({**WINDOWED, "sliding_window": -1}, "sliding_window is -1"),
        ({**WINDOWED, "max_window_layers": -1}, "max_window_layers is -1"),
        ({**WINDOWED, "use_sliding_window": 1}, "use_sliding_window is 1, not true or false"),
    ],
    ids=str,
)
def test_impossible_windows_are_refused(more, words):
    with pytest.raises(BadInputError, match=words):
        read(**more)


def test_a_head_size_that_is_not_given_is_derived():
    assert read(head_dim=None).head_dim == 24
    assert read(head_dim=None, num_attention_heads=6).head_dim == 16
    assert read(head_dim=48).head_dim == 48
    with pytest.raises(BadInputError, match="hidden_size 96 is not a multiple of 10 heads"):
        read(head_dim=None, num_attention_heads=10)


def test_key_value_heads_that_are_not_given_are_all_heads():
    assert read(num_key_value_heads=None).kv_heads == 4
    assert read(num_key_value_heads=1).kv_heads == 1


@pytest.mark.parametrize("heads", [(4, 3), (4, 8), (6, 4)])
def test_heads_must_share_evenly(heads):
    with pytest.raises(BadInputError, match="heads cannot share"):
        read(num_attention_heads=heads[0], num_key_value_heads=heads[1])


@pytest.mark.parametrize(
    "key",
    ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"],
)
@pytest.mark.parametrize("value", [0, -1, 1.0, "4", True, [4], 2**31, None])
def test_sizes_must_be_possible(key, value):
    with pytest.raises(BadInputError, match=f"config.json: {key} is"):
        read(**{key: value})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"head_dim": 31}, "head size 31 is odd"),
        ({"head_dim": 2**20}, "head_dim is 1048576"),
        ({"num_hidden_layers": 2000}, "num_hidden_layers is 2000"),
        ({"num_attention_heads": 5000}, "num_attention_heads is 5000"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps is -1e-06"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"rms_norm_eps": 7.0}, "rms_norm_eps is 7.0"),
        ({"rms_norm_eps": None}, "rms_norm_eps is missing"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu'"),
        ({"attention_bias": "yes"}, "attention_bias is 'yes'"),
        ({"tie_word_embeddings": 0}, "tie_word_embeddings is 0"),
    ],
    ids=str,
)
def test_other_impossible_values(more, words):
    with pytest.raises(BadInputError, match=words):
        read(**more)


def test_unknown_keys_are_refused_by_name_unless_vouched_for():
    with pytest.raises(BadInputError, match=r"does not know: 'attn_temperature', 'logit_cap'.*--ignore-config-key"):
        read(attn_temperature=2.0, logit_cap=30.0)
    assert read(("attn_temperature", "logit_cap"), attn_temperature=2.0, logit_cap=30.0) == read()
    with pytest.raises(BadInputError, match="'logit_cap'"):
        read(("attn_temperature",), attn_temperature=2.0, logit_cap=30.0)


def test_the_activation_may_be_absent():
    assert read(hidden_act=None) == read()


def test_flags_reach_the_spec():
    spec = read(attention_bias=True, tie_word_embeddings=True)
    assert spec == replace(read(), qkv_bias=True, output_bias=True, tied_embeddings=True)
    assert not read().tied_embeddings


def test_a_cut_spec_keeps_its_first_layers():
    spec = read(**WINDOWED)
    assert spec.windows == (None, 16, 16, 16)
    assert spec.truncated(2).windows == (None, 16)
    assert spec.truncated(2).layers == 2


@pytest.mark.parametrize("name", ["gpt2", "", "Qwen3", "_decoder", "__init__", "../qwen3", "qwen3.qwen3"])
def test_an_unknown_architecture_names_the_supported_ones(name):
    with pytest.raises(BadInputError, match=f"is not supported; supported are {', '.join(supported())}"):
        find_architecture(name)


def test_the_folder_is_the_registry():
    assert "qwen3" in supported()
    assert not [name for name in supported() if name.startswith("_")]
    assert find_architecture("qwen3").read_config is read_config
