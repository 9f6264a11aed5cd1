import pytest

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.checkpoint.harmless_keys import HARMLESS_KEYS
from inference_pio.errors import BadInputError

# What a dense decoder must read itself, because each of these changes its numbers.
MATHS = {
    *("attention_bias", "attention_multiplier", "attn_logit_softcapping", "embedding_multiplier", "head_dim"),
    *("hidden_act", "hidden_size", "intermediate_size", "is_encoder_decoder", "layer_types", "logits_scaling"),
    *("max_position_embeddings", "max_window_layers", "model_type", "num_attention_heads", "num_hidden_layers"),
    *("num_key_value_heads", "partial_rotary_factor", "per_layer_config", "pruned_heads", "quantization_config"),
    *("residual_multiplier", "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window"),
    *("tie_word_embeddings", "transformers_weights", "use_sliding_window", "vocab_size"),
}


def test_no_key_that_changes_the_maths_is_harmless() -> None:
    assert not MATHS & HARMLESS_KEYS


@pytest.mark.parametrize("key", sorted(MATHS))
def test_such_a_key_is_refused_when_nothing_reads_it(key: str) -> None:
    with pytest.raises(BadInputError, match=key):
        ConfigReader({key: "value"}).finish()


def test_all_that_transformers_itself_writes_for_qwen3_is_covered() -> None:
    transformers = pytest.importorskip("transformers")
    written = transformers.Qwen3Config(dtype="bfloat16").to_dict()
    config = ConfigReader(written)
    config.ignore(*MATHS)
    config.finish()


def test_the_published_qwen3_config_is_covered() -> None:
    config = ConfigReader(
        {
            **{"architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0},
            **{"bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu"},
            **{"hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072},
            **{"max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3"},
            **{"num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8},
            **{"rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None},
            **{"tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.51.0"},
            **{"use_cache": True, "use_sliding_window": False, "vocab_size": 151936},
        }
    )
    config.ignore(*MATHS)
    config.finish()
