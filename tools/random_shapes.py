"""Published config.json files, whole or with fewer layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inference_pio.errors import BadInputError

SHAPES = Path(__file__).parent / "shapes"  # one published config.json per shape
IMAGE_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
FEWEST_BLOCKS = 4  # of a vision tower, which has DeepStack taps after three of them


def published_config(shape: str, layers: int | None = None) -> dict[str, Any]:
    """config.json of the published checkpoint named ``shape``, cut to ``layers`` layers where given.

    A cut checkpoint has no layer for multi-token prediction, and a vision tower of as many blocks, but at least four.
    """
    known = sorted(path.stem for path in SHAPES.glob("*.json"))
    if shape not in known:
        raise BadInputError(f"unknown shape {shape!r}: use one of {', '.join(known)}")
    config: dict[str, Any] = json.loads((SHAPES / f"{shape}.json").read_text(encoding="utf-8"))
    if layers is None:
        return config
    text = config.get("text_config", config)
    text["num_hidden_layers"] = layers
    if "max_window_layers" in text:
        text["max_window_layers"] = layers
    if "num_nextn_predict_layers" in text:
        text["num_nextn_predict_layers"] = 0
    vision = config.get("vision_config")
    if vision is not None and layers < vision["depth"]:
        vision |= {"depth": max(layers, FEWEST_BLOCKS), "deepstack_visual_indexes": [0, 1, 2]}
    return config


def token_ids(config: dict[str, Any], tokenizer: Path) -> dict[str, int]:
    """Ids that ``config`` gives to image placeholders, as the tokenizer in this folder has them."""
    added = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8")).get("added_tokens", [])
    ids = {token["content"]: int(token["id"]) for token in added}
    return {key: ids[text] for key, text in IMAGE_TOKENS.items() if key in config and text in ids}
