"""Rotary frequencies equal transformers', in every spelling of a configuration."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.errors import BadInputError
from inference_pio.graphs.architectures._config import read_rope
from inference_pio.graphs.blocks.rope import RopeSpec

DIMS = [16, 64, 80, 128]
POSITIONS = 4096
ULPS = 4 * 2**-23
"""torch's power is not correctly rounded, so the last bits may differ."""

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}

PARAMETERS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "linear of 1": {"rope_type": "linear", "factor": 1},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": YARN,
    "yarn of the published checkpoints": {**YARN, "original_max_position_embeddings": 32768},
    "yarn, not truncated": {**YARN, "truncate": False},
    "yarn, mscale": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.3},
    "yarn, mscale alone": {**YARN, "mscale": 0.707},
    "yarn, mscale of zero": {**YARN, "mscale": 0, "mscale_all_dim": 0.5},
    "yarn, attention factor": {**YARN, "attention_factor": 1.7},
    "yarn, both": {**YARN, "attention_factor": 1.7, "mscale": 0.7, "mscale_all_dim": 1.3},
    "yarn, betas": {**YARN, "beta_fast": 16, "beta_slow": 2},
    "yarn, equal betas": {**YARN, "beta_fast": 2.0, "beta_slow": 2.0},
    "yarn of factor 1": {**YARN, "factor": 1.0},
    "yarn of an odd factor": {**YARN, "factor": 2.7},
    "yarn without an original context": {"rope_type": "yarn", "factor": 2.0},
    "llama3": LLAMA3,
    "llama3, wide": {**LLAMA3, "low_freq_factor": 0.5, "high_freq_factor": 16.0, "factor": 32.0},
    "llama3 without an original context": {
        key: value for key, value in LLAMA3.items() if key != "original_max_position_embeddings"
    },
}


def config_of(dim: int, **more: Any) -> dict[str, Any]:
    return {"head_dim": dim, "max_position_embeddings": POSITIONS, **more}


def ours(config: dict[str, Any]) -> tuple[RopeSpec, int]:
    reader = ConfigReader(config)
    found = read_rope(reader, reader.need_int("head_dim"), default_theta=10_000.0)
    reader.finish()
    return found


def theirs(config: dict[str, Any]) -> tuple[np.ndarray, float]:
    rotary = Qwen3RotaryEmbedding(Qwen3Config.from_dict({**config, "model_type": "qwen3"}))
    return rotary.inv_freq.numpy(), float(rotary.attention_scaling)


def check(config: dict[str, Any]) -> None:
    spec, _ = ours(config)
    frequencies, scaling = theirs(config)
    assert np.array(spec.inverse_frequencies, np.float32) == pytest.approx(frequencies, rel=ULPS, abs=0)
    assert spec.scaling == pytest.approx(scaling, rel=1e-7)
    assert spec.dim == config["head_dim"]


@pytest.mark.parametrize("theta", [10_000.0, 1_000_000, 5e6])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", PARAMETERS)
def test_frequencies_and_scaling(kind, dim, theta):
    check(config_of(dim, rope_parameters={**PARAMETERS[kind], "rope_theta": theta}))


@pytest.mark.parametrize("key", ["type", "rope_type"])
@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_configs_of_transformers_4(kind, key):
    parameters = {name: value for name, value in PARAMETERS[kind].items() if name != "rope_type"}
    old = config_of(64, rope_theta=500_000.0, rope_scaling={key: PARAMETERS[kind]["rope_type"], **parameters})
    new = config_of(64, rope_parameters={**PARAMETERS[kind], "rope_theta": 500_000.0})
    assert ours(old) == ours(new)
    check(old)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"rope_theta": 77_000},
        {"rope_theta": 77_000, "rope_scaling": None},
        {"rope_theta": 77_000, "rope_scaling": {}},
        {"rope_parameters": {}},
        {"rope_parameters": {"rope_theta": 77_000}},
        {"rope_theta": 10.5, "rope_parameters": {"rope_theta": 77_000.0, "rope_type": "default"}},
        {"rope_scaling": {**YARN, "type": "yarn"}, "rope_theta": 77_000},
        {"rope_scaling": YARN, "rope_parameters": YARN, "rope_theta": 77_000},
        {"rope_scaling": {**YARN, "attention_factor": None, "rope_theta": 77_000}},
        {"rope_scaling": YARN, "original_max_position_embeddings": 512},
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}, "original_max_position_embeddings": 512},
        {"rope_parameters": LLAMA3, "original_max_position_embeddings": 512},
        {"partial_rotary_factor": 1.0},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1}},
    ],
    ids=str,
)
def test_every_spelling_means_what_transformers_takes_it_for(more):
    check(config_of(64, **more))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"rope_scaling": YARN, "rope_parameters": LLAMA3}, "rope_parameters is .*remove the wrong one"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, "rope_type is 'yarn' but type is"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope type 'longrope' is not supported"),
        ({"rope_scaling": {"type": "su", "factor": 2.0}}, "rope type 'su' is not supported"),
        ({"rope_scaling": {"type": 3}}, "rope type '3' is not supported"),
        ({"rope_parameters": {"rope_type": "proportional"}}, "rope type 'proportional' is not supported"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn', not an object"),
        ({"rope_parameters": [YARN]}, "rope_parameters is .*, not an object"),
        ({"rope_parameters": {"full_attention": YARN}}, "full_attention"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 2]}}, "mrope"),
        ({"rope_scaling": {**YARN, "mrope_section": [16, 24, 24]}}, "mrope_section"),
        ({"rope_scaling": {**YARN, "mrope_interleaved": True}}, "mrope_interleaved"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; only 1"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "partial_rotary_factor is 0.25"),
        ({"rope_theta": 0}, "rope_theta is 0.0; it must be above"),
        ({"rope_theta": 1}, "rope_theta is 1.0; it must be above"),
        ({"rope_theta": -10_000.0}, "must be above"),
        ({"rope_theta": "10000"}, "rope_theta is '10000', not a number"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor is 0.5; it must be at least"),
        ({"rope_scaling": {"type": "linear", "factor": 1e9}}, "factor is 1000000000.0; it must be at most"),
        ({"rope_scaling": {"type": "dynamic"}}, "factor is missing"),
        ({"rope_scaling": {**YARN, "factor": -1}}, "factor is -1.0"),
        ({"rope_scaling": {**YARN, "beta_fast": 0}}, "beta_fast"),
        ({"rope_scaling": {**YARN, "attention_factor": -1.0}}, "attention_factor"),
        ({"rope_scaling": {**YARN, "original_max_position_embeddings": 0}}, "original_max_position_embeddings is 0"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor 1.0 must be larger"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 0}}, "low_freq_factor is 0.0"),
        ({"rope_scaling": {**YARN, "rotations": 3}}, "rotations"),
        ({"max_position_embeddings": 0}, "max_position_embeddings is 0"),
        ({"max_position_embeddings": None}, "max_position_embeddings is missing"),
        ({"max_position_embeddings": 2**40}, "max_position_embeddings is 1099511627776"),
    ],
    ids=str,
)
def test_what_cannot_be_expressed_is_refused_by_name(more, words):
    with pytest.raises(BadInputError, match=words):
        ours(config_of(64, **more))


def test_an_odd_head_has_no_pairs():
    with pytest.raises(BadInputError, match="head size 7 is odd"):
        ours(config_of(7))


@pytest.mark.parametrize(
    ("parameters", "context"),
    [
        ({"rope_type": "default"}, 4096),
        ({"rope_type": "linear", "factor": 2.0}, 4096),
        ({"rope_type": "dynamic", "factor": 4.0}, 4096),
        (LLAMA3, 4096),
        (YARN, 4096),
        ({**YARN, "factor": 8.0}, 8192),
        ({**YARN, "factor": 2.5}, 4096),
        ({**YARN, "factor": 5.3}, 5427),
        ({"rope_type": "yarn", "factor": 2.0}, 8192),
    ],
    ids=str,
)
def test_the_context_ends_where_the_original_stays_consistent(parameters, context):
    assert ours(config_of(64, rope_parameters=parameters))[1] == context


@pytest.mark.parametrize("kind", ["default", "yarn", "llama3"])
def test_tables_equal_transformers_angles_far_out(kind):
    config = config_of(64, rope_parameters={**PARAMETERS[kind], "rope_theta": 1e6}, max_position_embeddings=65536)
    spec, _ = ours(config)
    rotary = Qwen3RotaryEmbedding(Qwen3Config.from_dict({**config, "model_type": "qwen3"}))
    positions = torch.arange(40_000, 40_100)[None]
    expected = rotary(torch.zeros(1), positions)
    for function, values in zip((np.cos, np.sin), expected, strict=True):
        table = spec.table(function, 40_000, 40_100)
        assert (table.dtype, table.shape) == (np.float32, (100, 32))
        assert np.abs(table - values[0, :, :32].numpy()).max() < 5e-3
        assert np.abs(spec.table(function, 40_030, 40_040) - table[30:40]).max() == 0


def test_linear_differs_from_default():
    """Guards the comparison itself: wrong frequencies would not pass unseen."""
    spec, _ = ours(config_of(64, rope_parameters=PARAMETERS["linear"]))
    frequencies, _ = theirs(config_of(64))
    assert np.abs(np.array(spec.inverse_frequencies) / frequencies - 1).max() > 0.5
