"""Places of patches and positions of tokens equal transformers' own, to the bit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from inference_pio.runtime.vision.grid import Span, patch_positions, position_taps, token_positions

sys.path.insert(0, str(Path(__file__).parents[2]))
from vision_cases import IMAGE, TEXT, TOWER, VIDEO

SIZES = [(2, 2), (2, 8), (8, 2), (6, 10), (48, 48), (50, 46), (96, 4), (128, 128)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("merge", [1, 2])
def test_patch_positions(height, width, merge):
    expected = get_vision_position_ids(torch.tensor([[1, height, width]]), merge).numpy()
    assert np.array_equal(patch_positions(height, width, merge), expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("side", [6, 48])
def test_position_taps(height, width, side):
    grid = torch.tensor([[1, height, width]])
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid, side, mode="bilinear", align_corners=True, spatial_merge_size=2
    )
    ours = position_taps(height, width, 2, side)
    assert np.array_equal(ours[0], indices.numpy())
    assert np.array_equal(ours[1], weights.numpy())


@pytest.fixture(scope="module")
def model() -> Qwen3VLModel:
    with torch.device("meta"):
        return Qwen3VLModel(Qwen3VLConfig(text_config=TEXT, vision_config=TOWER, image_token_id=IMAGE))


@pytest.mark.parametrize(
    "parts",
    [
        [5],
        [3, (IMAGE, 4, 6), 4],
        [(IMAGE, 8, 2), 1, (IMAGE, 2, 8), 9],
        [2, (VIDEO, 4, 4), 3, (VIDEO, 4, 4), 2, (IMAGE, 10, 4)],
    ],
    ids=["text", "one", "two", "video"],
)
def test_token_positions(model, parts):
    ids, spans = [], []
    for part in parts:
        if isinstance(part, int):
            ids += [7] * part
            continue
        kind, height, width = part
        spans.append((kind, Span(len(ids), height, width)))
        ids += [kind] * (height * width // 4)
    images = [[1, span.height, span.width] for kind, span in spans if kind == IMAGE]
    frames = [span for kind, span in spans if kind == VIDEO]
    videos = [[len(frames), frames[0].height, frames[0].width]] if frames else []
    tokens = torch.tensor([ids])
    expected, delta = model.get_rope_index(
        tokens,
        (tokens == IMAGE).int() + 2 * (tokens == VIDEO).int(),
        torch.tensor(images) if images else None,
        torch.tensor(videos) if videos else None,
    )
    positions, ahead = token_positions(len(ids), [span for _, span in spans], 2)
    assert np.array_equal(positions, expected[:, 0].numpy())
    assert ahead == int(delta)
