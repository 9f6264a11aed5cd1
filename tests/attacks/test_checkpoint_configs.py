"""Checkpoints whose configs are contradictory or no JSON, given to `inference-pio export`.

Each ends with exit code 2 and one line `error: ...` that names the culprit, without a traceback, and leaves nothing.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from checkpoint_cases import change_config
from shapes import write_shape


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "llama, mistral, qwen2, qwen3"),
        ({"model_type": None}, "model_type is missing"),
        ({"model_type": ["qwen3"]}, "model_type is ['qwen3'], not a string"),
        ({"hidden_size": -32}, "hidden_size is -32"),
        ({"hidden_size": 32.0}, "hidden_size is 32.0, not an integer"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": 3}, "lacks 'model.layers.2"),
        ({"num_hidden_layers": 1}, "does not use: 'model.layers.1"),
        ({"num_attention_heads": 3}, "'model.layers.0.self_attn"),
        ({"num_key_value_heads": 3}, "cannot share"),
        ({"head_dim": 15}, "odd"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny'"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"rope_scaling": {"type": "evil"}}, "rope type 'evil'"),
        ({"max_position_embeddings": 2**31}, "max_position_embeddings"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"attention_bias": True}, "lacks 'model.layers.0.self_attn"),
        ({"tie_word_embeddings": False}, "lacks 'lm_head.weight'"),
        ({"new_trick": 1}, "'new_trick'"),
        ({"new\x1b[2Jtrick": 1}, "'new\\x1b[2Jtrick'"),
        ({"x" * 5000: 1}, "'xxx"),
        ({"hidden_size": 10**40}, "hidden_size is"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_configs_that_cannot_be(checkpoint, refused, changes, words):
    change_config(checkpoint, **changes)
    assert words in refused(checkpoint)


@pytest.fixture(scope="module")
def sound_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_shape("moe", tmp_path_factory.mktemp("experts") / "checkpoint")
    values = json.loads((path / "config.json").read_text())
    values["num_experts"] = values.pop("num_local_experts")  # as published checkpoints call it
    (path / "config.json").write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_experts_per_tok": 7}, "num_experts_per_tok is 7"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
        ({"num_experts_per_tok": -1}, "num_experts_per_tok is -1"),
        ({"num_experts_per_tok": 2.0}, "num_experts_per_tok is 2.0"),
        ({"num_experts_per_tok": 10**40}, "num_experts_per_tok is 1000"),
        ({"num_experts": 0}, "num_experts is 0"),
        ({"num_experts": -6}, "num_experts is -6"),
        ({"num_experts": 10**9}, "num_experts is 1000000000"),
        ({"num_experts": "many"}, "num_experts is 'many'"),
        ({"num_experts": True}, "num_experts is True, not an integer"),
        ({"num_experts": 7, "num_local_experts": 6}, "num_experts is 7 but num_local_experts is 6"),
        ({"num_experts": 5}, "'model.layers.0.mlp.gate.weight'"),
        ({"num_experts": 4096}, "asks for 36864 tensors of experts, but the checkpoint has"),
        ({"num_experts": 4096, "num_hidden_layers": 1024}, "asks for 12582912 tensors of experts"),
        ({"moe_intermediate_size": 0}, "moe_intermediate_size is 0"),
        ({"moe_intermediate_size": 47}, "'model.layers.0.mlp.experts.0.gate_proj.weight'"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
        ({"decoder_sparse_step": 10**9}, "'model.layers.0.mlp.gate_proj.weight'"),
        ({"mlp_only_layers": [0]}, "'model.layers.0.mlp.gate_proj.weight'"),
        ({"mlp_only_layers": "all"}, "mlp_only_layers is 'all'"),
        ({"mlp_only_layers": [1.5]}, "mlp_only_layers"),
        ({"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes'"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_experts_that_cannot_be(sound_experts, tmp_path, refused, changes, words):
    checkpoint = Path(shutil.copytree(sound_experts, tmp_path / "checkpoint"))
    change_config(checkpoint, **changes)
    assert words in refused(checkpoint)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'{"a": "\\ud800"}'])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_configs_that_are_no_json(checkpoint, refused, name, content):
    (checkpoint / name).write_bytes(content)
    assert name in refused(checkpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": "hot"},
        {"top_k": [1]},
        {"top_p": {"a": 1}},
        {"repetition_penalty": True},
        {"eos_token_id": "end"},
        {"eos_token_id": [1, "end"]},
        {"eos_token_id": {"a": 1}},
        {"eos_token_id": 1.5},
        {"pad_token_id": True},
    ],
    ids=str,
)
def test_generation_configs_of_wrong_types(checkpoint, refused, changes):
    change_config(checkpoint, "generation_config.json", **{"eos_token_id": 1, **changes})
    assert next(iter(changes)) in refused(checkpoint)
