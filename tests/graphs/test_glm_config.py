"""What a GLM-4.7-Flash config.json may say, what it means, and what is refused by name."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import Glm4MoeLiteConfig
from transformers.models.glm4_moe_lite.modeling_glm4_moe_lite import Glm4MoeLiteAttention

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.errors import BadInputError
from inference_pio.graphs.architectures import glm4_moe_lite
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec, ExpertsSpec, MlaSpec, Scoring

sys.path.insert(0, str(Path(__file__).parents[1]))
from graph_cases import FakeCheckpoint
from latent_cases import SPEC, arrays_of

PUBLISHED: dict[str, Any] = {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "dtype": "bfloat16",
    "eos_token_id": [154820, 154827, 154829],
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "kv_lora_rank": 512,
    "max_position_embeddings": 202752,
    "model_type": "glm4_moe_lite",
    "moe_intermediate_size": 1536,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 20,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 47,
    "num_key_value_heads": 20,
    "num_nextn_predict_layers": 1,
    "pad_token_id": 154820,
    "partial_rotary_factor": 1.0,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.8,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "transformers_version": "5.0.0",
    "v_head_dim": 256,
    "vocab_size": 154880,
}
YARN = {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 0.8, "original_max_position_embeddings": 4096}


def read(**more: Any) -> DecoderSpec:
    """The spec of the published config with some keys changed; None removes a key."""
    config = ConfigReader({key: value for key, value in {**PUBLISHED, **more}.items() if value is not None})
    config.need_str("model_type")
    spec = glm4_moe_lite.read_config(config)
    config.finish()
    return spec


def theirs(**more: Any) -> Glm4MoeLiteConfig:
    return Glm4MoeLiteConfig(**{key: value for key, value in {**PUBLISHED, **more}.items() if value is not None})


def test_the_published_config_is_understood():
    spec = read()
    assert (spec.layers, spec.heads, spec.hidden_size, spec.context_length) == (47, 20, 2048, 202752)
    assert spec.sparse == (False,) + (True,) * 46
    assert spec.mla == MlaSpec(768, 512, 192, 64, 256, 0.0625, 1e-6, True)
    assert spec.moe == ExpertsSpec(64, 4, 1536, Scoring.SIGMOID, True, 1.8, 1536)
    assert (spec.norm_epsilon, spec.rope.dim, spec.tied_embeddings) == (1e-5, 64, False)
    assert spec.rope.inverse_frequencies[1] == pytest.approx(1e6 ** (-1 / 32))


def test_a_token_takes_one_row_of_latent_and_rotated_key():
    spec = read()
    assert (spec.cache_kinds, spec.kv_heads, spec.head_dim) == (("latent",), 1, 576)


def test_what_transformers_saves_is_understood():
    """Every key that transformers writes is either read or known to be harmless."""
    config = ConfigReader(json.loads(theirs().to_json_string(use_diff=False)))
    config.need_str("model_type")
    spec = glm4_moe_lite.read_config(config)
    config.finish()
    assert spec == read()


@pytest.mark.parametrize(
    "more",
    [
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 5},
        {"num_hidden_layers": 3, "mlp_layer_types": ["sparse", "dense", "sparse"]},
        {"num_hidden_layers": 3, "mlp_layer_types": ["dense"] * 3, "first_k_dense_replace": 2},
        {"num_hidden_layers": 4, "first_k_dense_replace": None},
    ],
    ids=str,
)
def test_dense_layers_are_those_of_transformers(more):
    kinds = theirs(**more).mlp_layer_types
    assert read(**more).sparse == tuple(kind == "sparse" for kind in kinds)


@pytest.mark.parametrize("scaling", [None, YARN, {**YARN, "mscale_all_dim": 0}, {**YARN, "factor": 1.0}], ids=str)
def test_the_factor_on_scores_is_that_of_transformers(scaling):
    more = {"rope_scaling": scaling, "num_hidden_layers": 1, "n_routed_experts": 2, "num_experts_per_tok": 1}
    attention = Glm4MoeLiteAttention(theirs(hidden_size=8, num_attention_heads=1, num_key_value_heads=1, **more), 0)
    mla = read(**more).mla
    assert mla is not None and math.isclose(mla.scale, attention.scaling, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"n_group": 2}, "n_group is 2; only 1"),
        ({"topk_group": 4}, "topk_group is 4; only 1"),
        ({"moe_layer_freq": 2}, "moe_layer_freq is 2; only 1"),
        ({"topk_method": "greedy"}, "topk_method is 'greedy'; only 'noaux_tc'"),
        ({"scoring_func": "softmax"}, "scoring_func is 'softmax'; only 'sigmoid'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"num_key_value_heads": 4}, "num_key_value_heads is 4; only 20"),
        ({"head_dim": 128}, "head_dim is 128; only 64"),
        ({"qk_head_dim": 192}, "qk_head_dim is 192; only 256"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"qk_rope_head_dim": 63}, "head size 63 is odd"),
        ({"first_k_dense_replace": 3}, "first_k_dense_replace is 3; only 1"),
        ({"mlp_layer_types": ["dense"] * 46}, "mlp_layer_types has 46 entries for 47 layers"),
        ({"mlp_layer_types": ["dense"] * 46 + ["moe"]}, "layer type 'moe' in mlp_layer_types"),
        ({"num_experts_per_tok": 65}, "num_experts_per_tok is 65"),
        ({"n_routed_experts": 1, "num_experts_per_tok": 1}, "n_routed_experts is 1"),
        ({"num_local_experts": 32}, "n_routed_experts is 64 but num_local_experts is 32"),
        ({"n_shared_experts": 0}, "n_shared_experts is 0"),
        ({"routed_scaling_factor": 0}, "routed_scaling_factor is 0"),
        ({"routed_scaling_factor": None}, "routed_scaling_factor is missing"),
        ({"kv_lora_rank": None}, "kv_lora_rank is missing"),
        ({"q_lora_rank": 0}, "q_lora_rank is 0"),
        ({"rope_interleave": 1}, "rope_interleave is 1, not true or false"),
        ({"num_nextn_predict_layers": -1}, "num_nextn_predict_layers is -1"),
        ({"rope_scaling": {**YARN, "factor": None}}, "factor is missing"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope type 'longrope'"),
        ({"sliding_window": 4096}, "does not know: 'sliding_window'"),
    ],
    ids=str,
)
def test_impossible_values_are_refused(more, words):
    with pytest.raises(BadInputError, match=words):
        read(**more)


def test_flags_reach_the_spec():
    spec = read(attention_bias=True, tie_word_embeddings=True, q_lora_rank=None, rope_interleave=False)
    assert (spec.qkv_bias, spec.output_bias, spec.tied_embeddings) == (True, True, True)
    assert spec.mla == replace(read().mla, q_rank=None, interleaved=False)
    assert read(n_shared_experts=3).moe.shared_width == 3 * 1536


@pytest.mark.parametrize("layers", [None, 1])
def test_layers_that_predict_further_tokens_are_left_out(layers):
    """Also where the model is cut: their number counts from the uncut one."""
    spec = replace(SPEC, unused_tensors=("model.layers.2.*",))
    extra = {"model.layers.2.eh_proj.weight": np.ones((2, 2), np.float32)}
    cut = spec if layers is None else spec.truncated(layers)
    arrays = {name: array for name, array in arrays_of(cut).items() if not name.startswith("model.layers.2.")}
    model = glm4_moe_lite.build(cut, WeightSource(FakeCheckpoint(arrays | extra)))  # type: ignore[arg-type]
    assert not [name for name in model.graph.initializers if "layers.2" in str(name)]
    with pytest.raises(BadInputError, match=r"does not use: 'model.layers.2.eh_proj.weight'"):
        glm4_moe_lite.build(SPEC.truncated(layers or 2), WeightSource(FakeCheckpoint(arrays | extra)))  # type: ignore[arg-type]


def test_their_names_follow_the_number_of_layers():
    assert read().unused_tensors == ("model.layers.47.*",)
    assert read().truncated(3).unused_tensors == ("model.layers.47.*",)
    assert read(num_hidden_layers=4, num_nextn_predict_layers=2).unused_tensors == (
        "model.layers.4.*",
        "model.layers.5.*",
    )
    assert read(num_nextn_predict_layers=None).unused_tensors == ()
