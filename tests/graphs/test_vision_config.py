"""What a Qwen3-VL config.json may say, what it means, and what is refused by name."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen3VLConfig

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.errors import BadInputError
from inference_pio.graphs.architectures.qwen3_vl import read_config
from inference_pio.graphs.formats import FP32
from inference_pio.graphs.spec import DecoderSpec

sys.path.insert(0, str(Path(__file__).parents[1]))
from vision_cases import TEXT, TOWER

from inference_pio.calibration.recipes import RECIPES

PUBLISHED: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "image_token_id": 151655,
    "model_type": "qwen3_vl",
    "text_config": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "dtype": "bfloat16",
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 6144,
        "max_position_embeddings": 262144,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5000000,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": 151936,
    },
    "tie_word_embeddings": True,
    "transformers_version": "4.57.0.dev0",
    "video_token_id": 151656,
    "vision_config": {
        "deepstack_visual_indexes": [5, 11, 17],
        "depth": 24,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1024,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": 4096,
        "model_type": "qwen3_vl",
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": 2048,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "vision_end_token_id": 151653,
    "vision_start_token_id": 151652,
}


def read(values: dict[str, Any]) -> DecoderSpec:
    config = ConfigReader(values)
    config.need_str("model_type")
    spec = read_config(config)
    config.finish()
    return spec


def changed(path: str, value: Any) -> dict[str, Any]:
    """The published configuration with one entry changed; None removes it."""
    values = copy.deepcopy(PUBLISHED)
    *sections, key = path.split("/")
    place = values
    for section in sections:
        place = place[section]
    place[key] = value
    if value is None:
        del place[key]
    return values


def test_the_published_config():
    spec = read(PUBLISHED)
    assert (spec.layers, spec.heads, spec.kv_heads, spec.head_dim) == (28, 16, 8, 128)
    assert spec.tied_embeddings and spec.context_length == 262144 and spec.prefix == "model.language_model"
    streams = spec.rope.streams
    assert [streams.count(stream) for stream in (0, 1, 2)] == [24, 20, 20]
    assert streams[:6] == (0, 1, 2, 0, 1, 2) and streams[60:] == (0, 0, 0, 0)
    vision = spec.vision
    assert vision is not None
    assert (vision.depth, vision.position_side, vision.deepstack) == (24, 48, (5, 11, 17))
    assert (vision.patch_values, vision.merged_size, len(vision.inverse_frequencies)) == (1536, 4096, 16)
    assert (vision.image_token_id, vision.vision_end_token_id) == (151655, 151653)


def test_what_transformers_saves():
    config = Qwen3VLConfig(
        text_config=TEXT,
        vision_config=TOWER,
        **{f"{kind}_token_id": 5 for kind in ("image", "video", "vision_start", "vision_end")},
    )
    spec = read(config.to_dict())
    assert not spec.tied_embeddings
    assert spec.vision is not None and spec.vision.position_side == 6


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("text_config", None, "text_config is missing"),
        ("vision_config", None, "vision_config is missing"),
        ("vision_config", [], "not an object"),
        ("text_config/model_type", "qwen2_vl_text", "model_type"),
        ("text_config/hidden_act", "gelu", "hidden_act"),
        ("text_config/sliding_window", 16, "sliding_window"),
        ("text_config/num_experts", 8, "num_experts"),
        ("text_config/rope_scaling/mrope_interleaved", False, "mrope_interleaved"),
        ("text_config/rope_scaling/mrope_section", [24, 20], "3 are needed"),
        ("text_config/rope_scaling/mrope_section", [24, 20, -20], "negative"),
        ("text_config/rope_scaling/mystery", 3, "mystery"),
        ("text_config/tie_word_embeddings", False, "remove the wrong one"),
        ("vision_config/model_type", "siglip", "model_type"),
        ("vision_config/hidden_act", "gelu", "hidden_act"),
        ("vision_config/out_hidden_size", 1024, "out_hidden_size"),
        ("vision_config/num_heads", 15, "multiple of 4"),
        ("vision_config/num_position_embeddings", 2300, "not a square"),
        ("vision_config/in_channels", 4, "in_channels"),
        ("vision_config/deepstack_visual_indexes", None, "deepstack_visual_indexes is missing"),
        ("vision_config/deepstack_visual_indexes", [5, 24], "within 0 to 23"),
        ("vision_config/deepstack_visual_indexes", [11, 5], "must rise"),
        ("vision_config/deepstack_visual_indexes", [5, 5], "must rise"),
        ("vision_config/depth", 0, "depth"),
        ("vision_config/window_size", 112, "window_size"),
        ("vision_config/patch_size", [16, 16], "patch_size"),
        ("image_token_id", None, "image_token_id is missing"),
        ("image_token_id", 151936, "image_token_id"),
        ("vision_config/rope_parameters", {"rope_type": "default"}, "rope_type"),
        ("audio_config", {"depth": 3}, "audio_config"),
    ],
)
def test_refused_by_name(path, value, word):
    with pytest.raises(BadInputError, match=word):
        read(changed(path, value))


@pytest.mark.parametrize("path", ["tie_word_embeddings", "text_config/tie_word_embeddings"])
def test_one_word_about_the_tie_is_enough(path):
    assert read(changed(path, None)).tied_embeddings


def test_the_vision_tower_is_never_rounded_below_eight_bits():
    spec = read(PUBLISHED)
    recipe = RECIPES["int4"]
    bits = {
        name: recipe.format_of(name, spec).bits
        for name in (
            "model.language_model.layers.0.mlp.up_proj.weight",
            "model.language_model.embed_tokens.weight",
            "model.visual.blocks.23.attn.qkv.weight",
            "model.visual.blocks.0.mlp.linear_fc2.weight",
            "model.visual.merger.linear_fc1.weight",
            "model.visual.deepstack_merger_list.2.linear_fc2.weight",
        )
    }
    assert list(bits.values()) == [4, 8, 8, 8, 8, 8]
    for name in ("model.visual.pos_embed.weight", "model.visual.patch_embed.proj.weight"):
        assert recipe.format_of(name, spec) == FP32
