"""The artifact of a Qwen3-VL checkpoint equals transformers: images across chunks, all shapes, cut and sharded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from inference_pio.artifact.bundle import Artifact
from inference_pio.errors import BadInputError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime import Engine, SamplingParams

sys.path.insert(0, str(Path(__file__).parents[1]))
from vision_cases import (
    END,
    IMAGE,
    START,
    VISION_SHAPES,
    reference_vision_logits,
    vision_original,
    write_vision_shape,
)

TOLERANCE = 1e-4


def picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


PICTURES = [picture(0, 70, 100), picture(1, 150, 60)]
TEXT = np.random.default_rng(2).integers(0, 2000, 100).tolist()
PROMPTS = {
    "text": (TEXT, []),
    "image": ([*TEXT[:5], START, IMAGE, END, *TEXT[5:9]], PICTURES[:1]),
    "two_images": ([START, IMAGE, END, *TEXT[:20], START, IMAGE, END, 4], PICTURES),
    "over_chunks": ([*TEXT, START, IMAGE, END, *TEXT[:40], START, IMAGE, END, *TEXT[:30]], PICTURES),
}


def reference(path: Path, model: torch.nn.Module, ids: list[int], pictures: list[np.ndarray]) -> np.ndarray:
    if not pictures:
        return reference_vision_logits(model, {"input_ids": torch.tensor([ids])})
    processor = Qwen2VLImageProcessorPil.from_pretrained(path)
    prepared = processor([Image.fromarray(each) for each in pictures], return_tensors="pt")
    grids = iter(prepared["image_grid_thw"].prod(-1).tolist())
    full = [t for token in ids for t in ([token] * (next(grids) // 4) if token == IMAGE else [token])]
    tokens = torch.tensor([full])
    inputs = {"input_ids": tokens, "mm_token_type_ids": (tokens == IMAGE).int(), **prepared}
    return reference_vision_logits(model, inputs)


@pytest.fixture(scope="module", params=VISION_SHAPES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    path = write_vision_shape(request.param, folder / "checkpoint")
    export(path, folder / "fp32", ExportOptions(precision="fp32"))
    return folder / "fp32", path, vision_original(path)


def test_checker_accepts_the_files(case):
    for name in ("model.onnx", "vision.onnx"):
        onnx.checker.check_model(str(case[0] / name))


@pytest.mark.parametrize("name", PROMPTS)
def test_logits(case, name):
    artifact, path, model = case
    with Engine.open(artifact) as engine:
        found = engine.logits(PROMPTS[name][0], images=PROMPTS[name][1])
    assert np.abs(found - reference(path, model, *PROMPTS[name])).max() < TOLERANCE


@pytest.mark.parametrize("precision", ["int8", "int4", "fp16"])
def test_rounded_recipes_stay_near(vision_checkpoint, vision_artifact, precision):
    """Broken formats would be off by the size of the logits; the gates of trained models are finer."""
    expected = reference(vision_checkpoint, vision_original(vision_checkpoint), *PROMPTS["two_images"])
    with Engine.open(vision_artifact(precision)) as engine:
        found = engine.logits(PROMPTS["two_images"][0], images=PROMPTS["two_images"][1])
    apart = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert apart < {"int8": 0.05, "int4": 0.5, "fp16": 0.002}[precision]


def test_what_the_manifest_says(vision_artifact):
    artifact = Artifact.open(vision_artifact("int4"))
    manifest = artifact.manifest
    assert [(graph.role, graph.file) for graph in manifest.graphs] == [
        ("decoder", "model.onnx"),
        ("vision", "vision.onnx"),
    ]
    assert manifest.memory.weight_bytes == manifest.files["model.onnx.data"].size
    assert {"preprocessor_config.json", "video_preprocessor_config.json"} <= set(manifest.files)
    assert manifest.vision is not None and manifest.vision.image_token_id == IMAGE
    vision = onnx.load(artifact.file("vision.onnx"), load_external_data=False)
    attributes = [attribute for node in vision.graph.node for attribute in node.attribute]
    formats = {attribute.i for attribute in attributes if attribute.name == "bits"}
    assert formats == {8}  # a vision tower is never rounded below 8 bits
    sources = [
        name
        for file in ("model.onnx", "vision.onnx")
        for value in onnx.load(artifact.file(file), load_external_data=False).graph.initializer
        for entry in value.metadata_props
        if entry.key == "inference_pio.sources"
        for name, _ in json.loads(entry.value)
    ]
    # Everything once, but the tied table, which is looked up in one shape and multiplied by in another.
    assert {name for name in sources if sources.count(name) > 1} == {"model.language_model.embed_tokens.weight"}


def test_the_tied_table_is_stored_once(vision_artifact):
    decoder = onnx.load(Artifact.open(vision_artifact("int8")).file("model.onnx"), load_external_data=False)
    places = [
        {entry.key: entry.value for entry in value.external_data}
        for value in decoder.graph.initializer
        if value.name.startswith("model.language_model.embed_tokens.weight.") and value.external_data
    ]
    data = [place["offset"] for place in places if int(place["length"]) == 2056 * 96]
    assert len(data) == 2 and len(set(data)) == 1


def test_sharded_half_precision_checkpoint(tmp_path):
    path = write_vision_shape("untied_bias", tmp_path / "checkpoint", torch.bfloat16, shard_size="200KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    export(path, tmp_path / "fp32", ExportOptions(precision="fp32"))
    with Engine.open(tmp_path / "fp32") as engine:
        found = engine.logits(PROMPTS["image"][0], images=PROMPTS["image"][1])
    assert np.abs(found - reference(path, vision_original(path), *PROMPTS["image"])).max() < TOLERANCE


@pytest.mark.parametrize("layers", [1, 3])
def test_cut_models(vision_checkpoint, tmp_path, layers):
    """Cut after fewer layers than DeepStack feeds, the rest of its features goes nowhere, as in transformers."""
    export(vision_checkpoint, tmp_path / "cut", ExportOptions(precision="fp32", layers=layers))
    model = vision_original(vision_checkpoint)
    model.model.language_model.layers = model.model.language_model.layers[:layers]
    with Engine.open(tmp_path / "cut") as engine:
        assert engine.manifest.source.layers_kept == layers
        found = engine.logits(PROMPTS["two_images"][0], images=PROMPTS["two_images"][1])
    assert np.abs(found - reference(vision_checkpoint, model, *PROMPTS["two_images"])).max() < TOLERANCE


CALIBRATED = {"calibration": "default", "calibration_samples": 8, "calibration_length": 128}


@pytest.mark.parametrize(
    ("precision", "cache", "apart"),
    [
        ("w8a8", "fp32", 0.05),
        ("w8a8-static", "fp32", 0.3),
        ("int4-calibrated", "fp32", 0.5),
        ("int8-calibrated", "int8", 0.1),
    ],
)
def test_calibrated(vision_checkpoint, tmp_path, precision, cache, apart):
    """The decoder is calibrated, the tower rounded plainly; a random model meets images unlike those drawings."""
    export(vision_checkpoint, tmp_path / "out", ExportOptions(precision=precision, kv_cache=cache, **CALIBRATED))
    ids, pictures = PROMPTS["over_chunks"]
    expected = reference(vision_checkpoint, vision_original(vision_checkpoint), ids, pictures)
    params = SamplingParams(max_new_tokens=8, temperature=0, ignore_eos=True)
    with Engine.open(tmp_path / "out") as engine:
        found = engine.logits(ids, images=pictures)
        first, warm = (engine.generate(ids, params, images=pictures) for _ in range(2))
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < apart
    assert warm.usage.cached_tokens > 0 and warm.token_ids == first.token_ids


@pytest.mark.parametrize(
    ("options", "words"),
    [({"precision": "w8a8-static"}, "shows no images"), ({"kv_cache": "int8"}, "clip the keys and values of images")],
    ids=["static", "cache"],
)
def test_steps_from_text_alone_are_refused(vision_checkpoint, tmp_path, options, words):
    with pytest.raises(BadInputError, match=words):
        text = {**CALIBRATED, "calibration": Path(__file__), "calibration_samples": 2, "calibration_length": 64}
        export(vision_checkpoint, tmp_path / "out", ExportOptions(**{"precision": "int8", **text, **options}))
    assert not (tmp_path / "out").exists()
