"""The canonical graphs of Qwen3-VL equal transformers: vision features, and logits with images, chunks and steps."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.graphs.architectures import build_graphs, read_decoder
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import VisionSpec
from inference_pio.runtime.vision.grid import Span, patch_positions, position_taps, token_positions

sys.path.insert(0, str(Path(__file__).parents[1]))
from vision_cases import (
    END,
    IMAGE,
    START,
    VIDEO,
    VISION_SHAPES,
    Prompt,
    reference_inputs,
    reference_vision_logits,
    vision_original,
    write_vision_shape,
)

TOLERANCE = 1e-4

Grids = tuple[tuple[int, int, int], ...]


def prompt_of(*parts: int | tuple[int, int, int, int]) -> Prompt:
    """Text tokens by their number, images and videos as (kind, frames, height, width)."""
    rng, ids, grids = np.random.default_rng(3), [], {IMAGE: [], VIDEO: []}
    for part in parts:
        if isinstance(part, int):
            ids += rng.integers(0, 1900, part).tolist()
            continue
        kind, *grid = part
        grids[kind].append(tuple(grid))
        for _ in range(grid[0]):
            ids += [START, *[kind] * (grid[1] * grid[2] // 4), END]
    return Prompt(np.array(ids), tuple(grids[IMAGE]), tuple(grids[VIDEO]))


PROMPTS = {
    "text": prompt_of(40),
    "one_image": prompt_of(9, (IMAGE, 1, 6, 8), 12),
    "image_first": prompt_of((IMAGE, 1, 4, 4), 5),
    "two_images": prompt_of(3, (IMAGE, 1, 10, 4), 7, (IMAGE, 1, 4, 6), 6),
    "video": prompt_of(4, (VIDEO, 3, 4, 6), 8),
    "video_and_image": prompt_of(2, (VIDEO, 2, 4, 4), 3, (IMAGE, 1, 6, 6), 5),
}


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options)


@dataclass
class Graphs:
    """The two graphs of a checkpoint, and what the host computes around them."""

    folder: Path
    vision: VisionSpec

    def __post_init__(self) -> None:
        self.encoder, self.decoder = session(self.folder / "vision.onnx"), session(self.folder / "decoder.onnx")

    def vision_feeds(self, grid: tuple[int, int, int], pixels: np.ndarray) -> dict[str, np.ndarray]:
        frames, height, width = grid
        indices, weights = position_taps(height, width, self.vision.merge_size, self.vision.position_side)
        return {
            "pixel_values": pixels.reshape(frames, height * width, -1),
            "position_indices": indices,
            "position_weights": weights,
            "patch_positions": patch_positions(height, width, self.vision.merge_size),
        }

    def features(self, grids: Grids, pixels: np.ndarray) -> list[np.ndarray]:
        """Features of all images, one run each: [tokens, C] for the embedding and for every DeepStack layer."""
        runs, done = [], 0
        for grid in grids:
            count = int(np.prod(grid))
            runs.append(self.encoder.run(None, self.vision_feeds(grid, pixels[done : done + count])))
            done += count
        return [np.concatenate([o.reshape(-1, o.shape[-1]) for o in outputs]) for outputs in zip(*runs, strict=True)]

    def empty(self) -> dict[str, np.ndarray]:
        pasts = [value for value in self.decoder.get_inputs() if value.name.startswith("past_key_values.")]
        return {value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32) for value in pasts}

    def image_feeds(self, prompt: Prompt) -> dict[str, np.ndarray]:
        """The optional inputs of a whole prompt."""
        feeds: dict[str, np.ndarray] = {}
        for kind, grids in ((IMAGE, prompt.image_grids), (VIDEO, prompt.video_grids)):
            if not grids:
                continue
            mask = prompt.ids == kind
            layers = self.features(grids, prompt.pixels(grids, self.vision.patch_values))
            names = ["image_embeds", *(f"deepstack_embeds.{i}" for i in range(len(layers) - 1))]
            for name, rows in zip(names, layers, strict=True):
                dense = feeds.setdefault(name, np.zeros((1, len(mask), rows.shape[1]), np.float32))
                dense[0, mask] = rows
        if feeds:
            feeds["image_mask"] = np.isin(prompt.ids, (IMAGE, VIDEO))[None]
        return feeds

    def positions(self, prompt: Prompt) -> tuple[np.ndarray, int]:
        iterators = {IMAGE: iter(prompt.image_grids), VIDEO: iter(prompt.video_grids)}
        spans, waiting = [], {IMAGE: [], VIDEO: []}
        for start in np.flatnonzero(prompt.ids == START):
            kind = int(prompt.ids[start + 1])
            if not waiting[kind]:
                frames, height, width = next(iterators[kind])
                waiting[kind] = [(height, width)] * frames
            spans.append(Span(int(start) + 1, *waiting[kind].pop()))
        return token_positions(len(prompt.ids), spans, self.vision.merge_size)

    def run(self, prompt: Prompt, chunks: list[int]) -> np.ndarray:
        images, (positions, _) = self.image_feeds(prompt), self.positions(prompt)
        past, pieces, done = self.empty(), [], 0
        for size in chunks:
            place = slice(done, done + size)
            done += size
            logits, *present = self.decoder.run(
                None,
                {
                    "input_ids": prompt.ids[None, place],
                    "attention_mask": np.ones((1, done), np.int64),
                    "position_ids": positions[:, None, place],
                    **{name: value[:, place] for name, value in images.items()},
                    **past,
                },
            )
            past = dict(zip(past, present, strict=True))
            pieces.append(logits[0])
        return np.concatenate(pieces)


@pytest.fixture(scope="module", params=VISION_SHAPES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    path = write_vision_shape(request.param, folder / "checkpoint")
    with Checkpoint.open(path) as checkpoint:
        architecture, spec = read_decoder(checkpoint, (), None)
        for role, model in build_graphs(architecture, spec, WeightSource(checkpoint)).items():
            ir.save(model, folder / f"{role}.onnx")
    assert spec.vision is not None
    return Graphs(folder, spec.vision), vision_original(path)


@pytest.mark.parametrize("role", ["vision", "decoder"])
def test_checker_knows_every_value(case, role):
    path = case[0].folder / f"{role}.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    known = {value.name for value in (*inferred.value_info, *inferred.output)}
    assert {name for node in inferred.node for name in node.output} <= known


@pytest.mark.parametrize("grids", [((1, 2, 2),), ((1, 6, 10), (1, 8, 4)), ((3, 4, 6),)], ids=["least", "two", "video"])
def test_vision_features(case, grids):
    graphs, model = case
    pixels = Prompt(np.zeros(0)).pixels(grids, graphs.vision.patch_values)
    found = graphs.features(grids, pixels)
    with torch.no_grad():
        output = model.model.visual(torch.tensor(pixels), grid_thw=torch.tensor(grids), return_dict=True)
    expected = [output.pooler_output, *output.deepstack_features]
    assert len(found) == len(expected) == 1 + len(graphs.vision.deepstack)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs.numpy()).max() < TOLERANCE


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("chunks", ["whole", "chunks", "decode"])
def test_logits(case, name, chunks):
    graphs, model = case
    prompt = PROMPTS[name]
    length = len(prompt.ids)
    sizes = {"whole": [length], "chunks": [11, length - 12, 1], "decode": [1] * length}[chunks]
    if length < 12:
        sizes = [length]
    expected = reference_vision_logits(model, reference_inputs(prompt, graphs.vision.patch_values))
    assert np.abs(graphs.run(prompt, sizes) - expected).max() < TOLERANCE


def test_steps_after_the_prompt(case):
    """Generated tokens stand behind the prompt's highest position, not at their index."""
    graphs, model = case
    prompt = PROMPTS["two_images"]
    _, ahead = graphs.positions(prompt)
    assert ahead < 0
    ids = np.concatenate([prompt.ids, [5, 6, 7]])
    longer = Prompt(ids, prompt.image_grids)
    expected = reference_vision_logits(model, reference_inputs(longer, graphs.vision.patch_values))
    assert np.array_equal(graphs.positions(longer)[0][:, -3:], np.arange(len(ids) - 3, len(ids))[None] + [[ahead]] * 3)
    assert np.abs(graphs.run(longer, [len(prompt.ids), 1, 1, 1]) - expected).max() < TOLERANCE


def test_onnx_reference_agrees(case):
    graphs, _ = case
    prompt = PROMPTS["one_image"]
    grid = prompt.image_grids[0]
    feeds = graphs.vision_feeds(grid, prompt.pixels((grid,), graphs.vision.patch_values))
    found = ReferenceEvaluator(str(graphs.folder / "vision.onnx")).run(None, feeds)
    for ours, theirs in zip(found, graphs.encoder.run(None, feeds), strict=True):
        assert np.abs(ours - theirs).max() < TOLERANCE
    feeds = {
        "input_ids": prompt.ids[None],
        "attention_mask": np.ones((1, len(prompt.ids)), np.int64),
        "position_ids": graphs.positions(prompt)[0][:, None],
        **graphs.image_feeds(prompt),
        **graphs.empty(),
    }
    found = ReferenceEvaluator(str(graphs.folder / "decoder.onnx")).run(["logits"], feeds)[0]
    assert np.abs(found - graphs.decoder.run(["logits"], feeds)[0]).max() < TOLERANCE


def test_text_needs_no_image_inputs(case):
    """Left out, the optional inputs change nothing, not even where a placeholder's id stands."""
    graphs, model = case
    ids = np.array([3, 4, IMAGE, 5, VIDEO, 6])
    prompt = Prompt(ids)
    expected = reference_vision_logits(model, {"input_ids": torch.tensor(ids[None])})
    assert np.abs(graphs.run(prompt, [4, 2]) - expected).max() < TOLERANCE
