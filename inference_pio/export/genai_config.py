"""`genai_config.json`, with which onnxruntime-genai loads the artifact's folder."""

from __future__ import annotations

from typing import Any

from inference_pio.artifact.printable import printable
from inference_pio.errors import BadInputError
from inference_pio.graphs.spec import DecoderSpec

GENAI_TYPES = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3",  # genai 0.18 has no word for it; to the runtime both are a decoder with the same inputs
}
"""What genai calls the architectures whose greedy tokens a parity test compares with it."""

MAX_LENGTH = 2048
"""genai allocates the whole cache for `search.max_length`, so this stays modest; callers may raise it."""


def genai_config(
    spec: DecoderSpec,
    context_length: int,
    config: dict[str, Any],
    generation: dict[str, Any],
    inputs: list[str],
) -> dict[str, Any] | None:
    """The configuration; None for an architecture without a parity test or a checkpoint without an end-of-text id.

    Without such an id genai would end at the padding id, or at 0.
    """
    special_ids = _special_ids(config, generation)
    if spec.model_type not in GENAI_TYPES or not special_ids:
        return None
    names = {
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
    }
    return {
        "model": {
            "type": GENAI_TYPES[spec.model_type],
            **special_ids,
            "context_length": context_length,
            "vocab_size": spec.vocab_size,
            "decoder": {
                "filename": "model.onnx",
                "head_size": spec.head_dim,
                "hidden_size": spec.hidden_size,
                "num_attention_heads": spec.heads,
                "num_key_value_heads": spec.kv_heads,
                "num_hidden_layers": spec.layers,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "inputs": {key: name for key, name in names.items() if "%d" in name or name in inputs},
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": bool(generation.get("do_sample", False)),
            "max_length": min(context_length, MAX_LENGTH),
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": _number(generation, "repetition_penalty", 1.0) or 1.0,
            "temperature": _number(generation, "temperature", 1.0) or 1.0,
            "top_k": min(int(_number(generation, "top_k", 50)), spec.vocab_size),
            "top_p": _number(generation, "top_p", 1.0) or 1.0,
        },
    }


def _special_ids(config: dict[str, Any], generation: dict[str, Any]) -> dict[str, Any]:
    """The ids of end, begin and padding; without an end there is none.

    The end-of-text ids are those that the runtime stops at: of generation_config.json alone where there is one.
    """
    eos = (generation or config).get("eos_token_id")
    if eos is None or eos == []:
        return {}
    found = {"eos_token_id": eos}
    for key in ("bos_token_id", "pad_token_id"):
        values = (generation.get(key), config.get(key), eos[0] if isinstance(eos, list) else eos)
        found[key] = next(value for value in values if value is not None)
    for key, value in found.items():
        if not all(type(item) is int for item in (value if isinstance(value, list) else [value])):
            raise BadInputError(f"generation_config.json: {key} is {printable(value)}, not a token id")
    return found


def _number(generation: dict[str, Any], key: str, default: float) -> float:
    value = generation.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise BadInputError(f"generation_config.json: {key} is {printable(value)}, not a number")
    return default if value is None else float(value)
