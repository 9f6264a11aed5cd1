"""Random Qwen3-VL checkpoints in odd shapes, written by transformers itself, and its answers in float32."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shapes import randomize
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from inference_pio.tiny import tiny_checkpoint

IMAGE, VIDEO, START, END = 2048, 2049, 2050, 2051
"""Token ids behind those of the tiny tokenizer."""

TEXT: dict[str, Any] = {
    "vocab_size": 2056,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
    },
}
TOWER: dict[str, Any] = {
    "depth": 4,
    "hidden_size": 64,
    "intermediate_size": 144,
    "num_heads": 4,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 96,
    "num_position_embeddings": 36,
    "deepstack_visual_indexes": [0, 1, 2],
}
OTHER_SECTIONS = {**TEXT["rope_parameters"], "mrope_section": [8, 9, 7]}
YARN = {**TEXT["rope_parameters"], "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

VISION_SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}, {"tie_word_embeddings": True}),
    "untied_bias": ({"attention_bias": True}, {"depth": 3, "deepstack_visual_indexes": [0, 2]}, {}),
    "no_deepstack": ({}, {"depth": 2, "deepstack_visual_indexes": []}, {}),
    "other_sizes": (
        {"head_dim": 48, "num_attention_heads": 6, "rope_parameters": OTHER_SECTIONS},
        {"hidden_size": 48, "num_heads": 2, "patch_size": 4, "temporal_patch_size": 1, "num_position_embeddings": 49},
        {"tie_word_embeddings": True},
    ),
    "yarn": ({"rope_parameters": YARN}, {}, {"tie_word_embeddings": True}),
}

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' or 'image' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' or 'video' in part %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""As the published one writes messages, without tools."""


def write_vision_shape(name: str, out: Path, dtype: torch.dtype = torch.float32, shard_size: str = "5GB") -> Path:
    """Write the random checkpoint called `name` with the tiny tokenizer; every parameter is random."""
    torch.manual_seed(0)
    text, tower, top = VISION_SHAPES[name]
    config = Qwen3VLConfig(
        text_config={**TEXT, **text},
        vision_config={**TOWER, **tower},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        **top,
    )
    model = Qwen3VLForConditionalGeneration(config)
    randomize(model, bias=0.3)
    model.to(dtype).save_pretrained(out, max_shard_size=shard_size)
    _write_tokenizer(out)
    for file, processor, least, most in (
        ("preprocessor_config.json", "image_processor_type", 4096, 65536),
        ("video_preprocessor_config.json", "video_processor_type", 4096, 262144),
    ):
        sizes = {key: config.vision_config.to_dict()[key] for key in ("patch_size", "temporal_patch_size")}
        values = {
            "size": {"shortest_edge": least, "longest_edge": most},
            **sizes,
            "merge_size": config.vision_config.spatial_merge_size,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "Qwen3VLProcessor",
            processor: "Qwen2VLImageProcessorFast" if "image" in processor else "Qwen3VLVideoProcessor",
        }
        (out / file).write_text(json.dumps(values, indent=2))
    return out


def _write_tokenizer(out: Path) -> None:
    """The tiny tokenizer with four more special tokens."""
    tiny = tiny_checkpoint("qwen3")
    tokenizer = json.loads((tiny / "tokenizer.json").read_text())
    config = json.loads((tiny / "tokenizer_config.json").read_text())
    words = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    for token_id, word in zip((IMAGE, VIDEO, START, END), words, strict=True):
        known = {"content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        tokenizer["added_tokens"].append({"id": token_id, **known, "special": True})
        config["added_tokens_decoder"][str(token_id)] = {**known, "special": True}
    (out / "tokenizer.json").write_text(json.dumps(tokenizer))
    (out / "tokenizer_config.json").write_text(json.dumps(config))
    (out / "chat_template.jinja").write_text(TEMPLATE)


def vision_original(path: Path) -> Qwen3VLForConditionalGeneration:
    """The checkpoint in transformers, float32, eager attention."""
    return Qwen3VLForConditionalGeneration.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@dataclass(frozen=True)
class Prompt:
    """Token ids with expanded placeholders, grids [N, 3] and patches of its images and videos in order of kinds."""

    ids: np.ndarray
    image_grids: tuple[tuple[int, int, int], ...] = ()
    video_grids: tuple[tuple[int, int, int], ...] = ()

    def pixels(self, grids: tuple[tuple[int, int, int], ...], values: int) -> np.ndarray:
        rng = np.random.default_rng(len(grids))
        return rng.uniform(-1, 1, (sum(t * h * w for t, h, w in grids), values)).astype(np.float32)


def reference_inputs(prompt: Prompt, values: int) -> dict[str, torch.Tensor]:
    """What transformers' model takes."""
    ids = torch.tensor(prompt.ids[None])
    kinds = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    inputs: dict[str, torch.Tensor] = {"input_ids": ids, "mm_token_type_ids": kinds}
    for grids, pixels, name in (
        (prompt.image_grids, "pixel_values", "image_grid_thw"),
        (prompt.video_grids, "pixel_values_videos", "video_grid_thw"),
    ):
        if grids:
            inputs[pixels] = torch.tensor(prompt.pixels(grids, values))
            inputs[name] = torch.tensor(grids)
    return inputs


def reference_vision_logits(model: Qwen3VLForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    """Logits float32 [S, V] of the whole prompt at once."""
    model.model.rope_deltas = None
    with torch.no_grad():
        logits: np.ndarray = model(**inputs, use_cache=False).logits[0].numpy()
    return logits
