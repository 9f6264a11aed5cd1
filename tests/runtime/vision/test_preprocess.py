"""Patches equal those of transformers' own Pillow processor, to the bit, from files, Pillow images and arrays."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from inference_pio.artifact.preprocessing import read_preprocessing
from inference_pio.errors import BadInputError
from inference_pio.runtime.vision.preprocess import Preprocessor, smart_resize

# The package's own name for it asks for torchvision, which these functions do not need.
videos = importlib.import_module("transformers.models.qwen3_vl.video_processing_qwen3_vl")

PUBLISHED = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
    "image_processor_type": "Qwen2VLImageProcessorFast",
}
PUBLISHED_VIDEO = {
    **{key: value for key, value in PUBLISHED.items() if key != "image_processor_type"},
    "size": {"longest_edge": 25165824, "shortest_edge": 4096},
    "video_processor_type": "Qwen3VLVideoProcessor",
}
OTHERS = {
    "small": {"size": {"longest_edge": 8192, "shortest_edge": 2048}, "patch_size": 8},
    "clip": {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]},
    "other_patches": {"patch_size": 14, "temporal_patch_size": 1, "merge_size": 3},
}
SIZES = [(1, 1), (3, 5), (32, 32), (33, 100), (7, 1400), (256, 256), (300, 431), (1, 200), (640, 1), (999, 1001)]


def write(folder: Path, **changes: object) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps({**PUBLISHED, **changes}))
    (folder / "video_preprocessor_config.json").write_text(json.dumps({**PUBLISHED_VIDEO, **changes}))
    return folder


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    depth = {"RGB": 3, "RGBA": 4, "L": 1, "LA": 2, "CMYK": 4}[mode]
    values = rng.integers(0, 256, (height, width, depth), dtype=np.uint8)
    return Image.fromarray(values[..., 0] if depth == 1 else values, mode=mode)


def assert_same(folder: Path, image: object) -> None:
    expected = Qwen2VLImageProcessorPil.from_pretrained(folder)(image, return_tensors="np")
    found = Preprocessor(folder).image(image, "the image")
    assert found.values.dtype == np.float32
    grid = found.grid
    assert [[grid.frames, grid.height, grid.width]] == expected["image_grid_thw"].tolist()
    assert np.array_equal(found.values[0], expected["pixel_values"])


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_sizes(tmp_path, width, height):
    if max(width, height) <= 200 * min(width, height):
        assert_same(write(tmp_path), picture(width, height))
    else:
        with pytest.raises(BadInputError, match="at most 200 times"):
            Preprocessor(write(tmp_path)).image(picture(width, height), "the image")


def test_a_large_image_is_shrunk(tmp_path):
    rules = {"size": {"longest_edge": 1 << 20, "shortest_edge": 65536}}
    assert_same(write(tmp_path, **rules), picture(2100, 1300))


@pytest.mark.parametrize("rules", OTHERS)
@pytest.mark.parametrize(("width", "height"), [(70, 45), (10, 300)])
def test_other_rules(tmp_path, rules, width, height):
    assert_same(write(tmp_path, **OTHERS[rules]), picture(width, height))


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "CMYK"])
def test_modes(tmp_path, mode):
    assert_same(write(tmp_path), picture(90, 61, mode))


def palette(transparent: bool) -> Image.Image:
    image = picture(80, 70).convert("P", palette=Image.Palette.ADAPTIVE)
    if transparent:
        image.info["transparency"] = 3
    return image


@pytest.mark.parametrize("transparent", [False, True])
def test_palettes(tmp_path, transparent):
    assert_same(write(tmp_path), palette(transparent))


@pytest.mark.parametrize("mode", ["1", "I;16", "HSV", "YCbCr"])
def test_rare_modes(tmp_path, mode):
    image = picture(60, 60, "L") if mode == "I;16" else picture(60, 60)
    image = Image.fromarray(np.arange(3600, dtype=np.uint16).reshape(60, 60)) if mode == "I;16" else image.convert(mode)
    assert_same(write(tmp_path), image)


@pytest.mark.parametrize("shape", [(50, 60, 3), (3, 50, 60), (50, 60, 4), (50, 60, 1), (1, 50, 60), (3, 50, 3)])
def test_arrays(tmp_path, shape):
    assert_same(write(tmp_path), np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("file", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tiff"])
def test_files(tmp_path, file):
    picture(77, 120).save(tmp_path / file)
    assert_same(write(tmp_path), str(tmp_path / file))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright(tmp_path, orientation):
    image = picture(120, 40)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert_same(write(tmp_path), str(tmp_path / "turned.jpg"))
    with Image.open(tmp_path / "turned.jpg") as lying:  # an open image is taken as it lies
        assert_same(tmp_path, lying)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_files_with_transparency(tmp_path, mode):
    picture(50, 60, mode).save(tmp_path / "clear.png")
    assert_same(write(tmp_path), str(tmp_path / "clear.png"))
    palette(True).save(tmp_path / "palette.png", transparency=3)
    assert_same(tmp_path, str(tmp_path / "palette.png"))


@pytest.mark.parametrize("frames", [1, 2, 3, 8])
@pytest.mark.parametrize(("height", "width"), [(40, 20), (300, 500), (10, 700), (2000, 3000)])
def test_sizes_of_videos(frames, height, width):
    rules = read_preprocessing({**PUBLISHED_VIDEO, "size": {"longest_edge": 3 << 20, "shortest_edge": 65536}}, "rules")
    whole = max(frames, 2)  # transformers refuses less than a patch; a frame that is missing repeats the last
    expected = videos.smart_resize(whole, height, width, 2, rules.factor, rules.min_pixels, rules.max_pixels)
    assert smart_resize(height, width, rules, frames=whole) == expected


@pytest.mark.parametrize("count", [1, 2, 5])
def test_patches_of_videos(tmp_path, count):
    """As transformers cuts them; its own resizing needs torchvision, so the frames have their size already."""
    folder = write(tmp_path, size={"shortest_edge": 4096, "longest_edge": 1 << 20})
    frames = [np.asarray(picture(96, 64, seed=seed)) for seed in range(count)]
    found = Preprocessor(folder).video(frames, "the video")
    normalized = np.stack([(frame.astype(np.float64) / 255).astype(np.float32) for frame in frames])
    tensor = torch.tensor((normalized - 0.5) / 0.5).permute(0, 3, 1, 2)[None]
    expected, *grid = videos.Qwen3VLVideoProcessor.patchify(None, tensor, 16, 2, 2)
    assert [found.grid.frames, found.grid.height, found.grid.width] == grid == [-(-count // 2), 4, 6]
    assert np.allclose(found.values.reshape(-1, found.values.shape[-1]), expected[0].numpy(), atol=1e-6)


def test_a_token_budget_shrinks(tmp_path):
    folder = write(tmp_path)
    full, small = (Preprocessor(folder, limit).image(picture(700, 500), "it") for limit in (None, 100))
    assert full.grid.frame_tokens(2) > 300 and small.grid.frame_tokens(2) <= 100
    with pytest.raises(BadInputError, match="at least 64 tokens"):
        Preprocessor(folder, 63)


def test_content_decides_about_the_digest(tmp_path):
    preprocessor = Preprocessor(write(tmp_path))
    one, same, other = (preprocessor.image(picture(300, 300, seed=seed), "it").digest for seed in (0, 0, 1))
    assert one == same != other
    wide, high = (preprocessor.image(np.full(s, 7, np.uint8), "it").digest for s in ((256, 512, 3), (512, 256, 3)))
    assert wide != high


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"size": {"shortest_edge": 65536}}, "longest_edge"),
        ({"size": [1, 2]}, "size must be"),
        ({"patch_size": None}, "patch_size"),
        ({"patch_size": 16.0}, "patch_size"),
        ({"merge_size": True}, "merge_size"),
        ({"image_mean": [0.5]}, "three numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "above 0"),
        ({"do_resize": False}, "do_resize is false"),
        ({"do_convert_rgb": False}, "do_convert_rgb"),
        ({"resample": 2}, "resample"),
        ({"min_pixels": 1 << 29}, "at most"),
        ({"do_center_crop": True}, "'do_center_crop'"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
    ],
)
def test_rules_that_are_refused(tmp_path, change, word):
    with pytest.raises(BadInputError, match=word):
        Preprocessor(write(tmp_path, **change))


def test_what_transformers_saves_is_understood(tmp_path):
    Qwen2VLImageProcessorPil.from_pretrained(write(tmp_path)).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert "image_processor_type" in saved
    assert_same(tmp_path, picture(100, 80))
