"""transformers itself on one image: vision features, first token."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import torch
from process import report_image, spec
from transformers import Qwen3VLForConditionalGeneration

from inference_pio.runtime.vision.preprocess import Preprocessor

asked = spec()
torch.set_num_threads(asked["threads"])
rng = np.random.default_rng(asked["seed"])
dtype = getattr(torch, asked["dtype"])
model = Qwen3VLForConditionalGeneration.from_pretrained(asked["checkpoint"], dtype=dtype).eval()
prepare = Preprocessor(Path(asked["checkpoint"]))


@torch.inference_mode()
def ask(side: int) -> tuple[float, float, int]:
    """Seconds to the vision features of one image, to the first token about another, and tokens of the prompt."""
    images = rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    started = time.perf_counter()
    model.model.get_image_features(*inputs(images[0]))
    features = time.perf_counter() - started
    started = time.perf_counter()
    pixels, grid = inputs(images[1])
    config = model.config
    places = int(grid.prod()) // config.vision_config.spatial_merge_size**2
    ids = [config.vision_start_token_id, *[config.image_token_id] * places, config.vision_end_token_id, 100, 200]
    batch = torch.tensor([ids])
    kinds = (batch == config.image_token_id).long()
    model(input_ids=batch, pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=kinds, logits_to_keep=1)
    return features, time.perf_counter() - started, len(ids)


def inputs(image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches and grid of an image, prepared as for the artifact, which is what transformers' processor gives."""
    patches = prepare.image(image, "image")
    grid = torch.tensor([[len(patches.values), patches.grid.height, patches.grid.width]])
    return torch.from_numpy(patches.values.reshape(-1, patches.values.shape[-1])).to(dtype), grid


ask(256)
report_image(*ask(asked["side"]))
