"""The facts of the shipped models are those of transformers' own classes at the published sizes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tomllib
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from inference_pio.models import (
    ModelCard,
    PluginType,
    glm_4_7_flash,
    qwen3_4b_instruct_2507,
    qwen3_coder_30b,
    qwen3_vl_2b_instruct,
)
from inference_pio.models.plugin import DEPENDENCIES, PYTHON
from inference_pio.models.registry import SHIPPED

REPOSITORY = Path(__file__).parents[2]
QWEN_TEXT = {"vocab_size": 151936, "head_dim": 128, "max_position_embeddings": 262144, "rms_norm_eps": 1e-6}
PUBLISHED: dict[str, dict[str, Any]] = {
    "qwen3": json.loads((REPOSITORY / "tools/shapes/qwen3-4b.json").read_text()),
    "qwen3_moe": {
        **QWEN_TEXT,
        **{"num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 4},
        **{"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "tie_word_embeddings": False},
    },
    "qwen3_vl": {
        "tie_word_embeddings": True,
        "text_config": {
            **QWEN_TEXT,
            **{"num_hidden_layers": 28, "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 8},
            **{"intermediate_size": 6144, "tie_word_embeddings": True},
        },
        "vision_config": {
            **{"depth": 24, "hidden_size": 1024, "num_heads": 16, "intermediate_size": 4096, "patch_size": 16},
            **{"temporal_patch_size": 2, "spatial_merge_size": 2, "num_position_embeddings": 2304},
            **{"deepstack_visual_indexes": [5, 11, 17], "out_hidden_size": 2048},
        },
    },
    "glm4_moe_lite": {
        **{"vocab_size": 154880, "hidden_size": 2048, "intermediate_size": 10240, "num_hidden_layers": 47},
        **{"num_attention_heads": 20, "num_key_value_heads": 20, "q_lora_rank": 768, "kv_lora_rank": 512},
        **{"qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "n_routed_experts": 64},
        **{"num_experts_per_tok": 4, "moe_intermediate_size": 1536, "n_shared_experts": 1},
        **{"tie_word_embeddings": False},
    },
}
CARDS = [module.CARD for module in (qwen3_4b_instruct_2507, qwen3_coder_30b, qwen3_vl_2b_instruct, glm_4_7_flash)]


def identify(card: ModelCard) -> str:
    return card.name


@pytest.mark.parametrize("card", CARDS, ids=identify)
def test_parameters(card: ModelCard):
    values = {key: value for key, value in PUBLISHED[card.architecture].items() if key != "model_type"}
    config = AutoConfig.for_model(card.architecture, **values)
    kind = AutoModelForImageTextToText if card.plugin_type is PluginType.VISION_LANGUAGE else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config)
    stored = model.state_dict()
    tensors = [*model.parameters(), *(buffer for name, buffer in model.named_buffers() if name in stored)]
    assert card.parameters == sum(tensor.numel() for tensor in tensors)
    ends = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    assert card.edge_parameters == sum(parameter.numel() for parameter in ends)


@pytest.mark.parametrize("card", CARDS, ids=identify)
def test_what_a_token_takes_in_the_cache(card: ModelCard):
    values = PUBLISHED[card.architecture]
    text = values.get("text_config", values)
    heads = 2 * text["num_key_value_heads"] * text.get("head_dim", 0)
    latent = text.get("kv_lora_rank", 0) + text.get("qk_rope_head_dim", 0)
    assert card.cache_values_per_token == text["num_hidden_layers"] * (latent or heads)


def test_memory_of_the_weights():
    """int4 with blocks of 128 was 2.14 GB where the token table is rounded to 4 bits as well; here it keeps 8."""
    card = qwen3_4b_instruct_2507.CARD
    assert card.weight_bytes(4) / 1e9 == pytest.approx(2.137 + 0.389 / 2, abs=1e-3)
    assert card.weight_bytes(8) / 1e9 == pytest.approx(4.148, abs=1e-3)
    assert card.memory_bytes(8) - card.weight_bytes(8) > 4096 * 4 * card.cache_values_per_token


@pytest.mark.parametrize("card", CARDS, ids=identify)
def test_facts_agree_with_each_other(card: ModelCard):
    assert card.size == f"{card.parameters / 1e9:.1f}B"
    assert card.name in SHIPPED and SHIPPED[card.name]().metadata.name == card.name
    assert ("image" in card.modalities) == (card.plugin_type is PluginType.VISION_LANGUAGE)
    assert f"-o artifacts/{card.name} " in card.export_command() and card.checkpoint in card.export_command()


def test_dependencies_are_those_of_the_package():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in stated}
    assert set(DEPENDENCIES) == names - {"click", "tqdm"}  # which are the command line's
    assert project["requires-python"] == PYTHON
