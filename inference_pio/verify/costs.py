"""What a verification will need, told before it starts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from inference_pio.artifact.manifest import Manifest
from inference_pio.artifact.manifest_reader import read_manifest
from inference_pio.calibration.examples import Example
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.runtime.vision.preprocess import Preprocessor
from inference_pio.verify.examples import read_examples
from inference_pio.verify.options import VerifyOptions
from inference_pio.verify.original import passes_for
from inference_pio.verify.passes import ARTIFACT_ALONE
from inference_pio.verify.scratch import CHUNK_ELEMENTS

_MB = 1 << 20
_ENGINE = 250 * _MB
"""Python, ONNX Runtime and its arena after a window."""
_CHUNK = 128
"""Tokens that the engine takes at a time."""
_TORCH = 420 * _MB
"""Python, torch and transformers."""
_HEAD = 160 * _MB
"""Chunks of the head and of its logits."""
_PACKED = 1.15
"""Weights while a session is being loaded, as a multiple of their file."""
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_TOGETHER = 6
"""Copies of the hidden states of all positions that a layer with experts has at once."""


@dataclass(frozen=True)
class Estimate:
    """Expected peak of resident memory and of temporary disk, in bytes, and the positions that will be compared."""

    peak_memory_bytes: int
    scratch_bytes: int
    positions: int


def estimate(artifact: str | Path, checkpoint: str | Path | None, options: VerifyOptions | None = None) -> Estimate:
    """What `verify` with the same arguments will need; exact for the disk when the text is long enough.

    Raises BadInputError when the artifact or the checkpoint cannot be opened.
    """
    options = options or VerifyOptions()
    manifest = read_manifest(Path(artifact))
    if manifest.vision is not None:
        return _answers_estimate(Path(artifact), manifest, checkpoint, options)
    window = min(options.window, manifest.model.context_length)
    wanted = options.positions_for(manifest.recipe.name)
    window = min(window, wanted)
    positions = math.ceil(wanted / window) * window
    phases = [_engine_bytes(manifest, window), 8 * 4 * CHUNK_ELEMENTS + _TORCH]
    passes = ARTIFACT_ALONE
    if options.reference is None and checkpoint is not None:
        with Checkpoint.open(checkpoint) as source:
            phases.append(_reference_bytes(source, manifest, positions, window))
        passes = passes_for(manifest, options)
    rows = passes.rows(positions, window)
    return Estimate(max(phases), rows * manifest.model.vocab_size * 4, positions)


def _answers_estimate(
    artifact: Path, manifest: Manifest, checkpoint: str | Path | None, options: VerifyOptions
) -> Estimate:
    """For answers about images: no prompt or answer has more tokens than bytes."""
    examples = read_examples(options.data).examples
    positions = sum(len(example.answer.encode()) for example in examples)
    images = [_image_tokens(artifact, example) for example in examples]
    longest = max(shown + len((e.prompt + e.answer).encode()) for shown, e in zip(images, examples, strict=True))
    phases = [_engine_bytes(manifest, min(longest, manifest.model.context_length)), 8 * 4 * CHUNK_ELEMENTS + _TORCH]
    if checkpoint is not None:
        with Checkpoint.open(checkpoint) as source:
            tower = _tower_bytes(source, manifest, sum(images))
            phases.append(_reference_bytes(source, manifest, len(examples) * longest, longest) + tower)
    rows = passes_for(manifest, options).rows(positions, positions)
    return Estimate(max(phases), rows * manifest.model.vocab_size * 4, positions)


def _image_tokens(artifact: Path, example: Example) -> int:
    """Tokens of an example's images and videos, from the headers of their files."""
    reader = Preprocessor(artifact)
    found = sum(reader.tokens([image], video=False) for image in example.images)
    return found + sum(reader.tokens(list(video.frames), video=True) for video in example.videos)


def _tower_bytes(checkpoint: Checkpoint, manifest: Manifest, tokens: int) -> int:
    """Patches of all images, their hidden states and features, and what comes between these."""
    assert manifest.vision is not None
    tower, patches = checkpoint.config.get("vision_config"), tokens * manifest.vision.merge_size**2
    if not isinstance(tower, dict):
        raise BadInputError(
            f"{checkpoint.path} has no vision tower and the artifact has one: give the checkpoint it came from"
        )
    values = 3 * manifest.vision.temporal_patch_size * manifest.vision.patch_size**2
    features = 1 + len(tower["deepstack_visual_indexes"])
    return 4 * (patches * (2 * values + 4 * tower["hidden_size"]) + 3 * features * tokens * manifest.model.hidden_size)


def _engine_bytes(manifest: Manifest, window: int) -> int:
    logits = (window + _CHUNK) * manifest.model.vocab_size * 4
    cache = window * manifest.memory.cache_bytes_per_token
    return int(_PACKED * manifest.memory.weight_bytes) + cache + logits + _ENGINE


def _reference_bytes(checkpoint: Checkpoint, manifest: Manifest, positions: int, window: int) -> int:
    """One layer in float32, its largest tensor once more as stored, hidden states and one window's activations.

    Of a layer's experts one is in memory at a time, but the layer runs over all positions at once.
    """
    layers: dict[str, int] = {}
    largest = widest = 0
    copies = 4
    for name, info in checkpoint.tensors.items():
        match, expert = _LAYER.search(name), _EXPERT.search(name)
        if expert:
            copies = 4 + _TOGETHER
        if match and not (expert and int(expert[1])):
            size = math.prod(info.shape)
            layers[match[1]] = layers.get(match[1], 0) + size
            largest, widest = max(largest, size), max(widest, info.shape[0])
    hidden = copies * positions * manifest.model.hidden_size * 4
    activations = 4 * window * widest * 4
    return 4 * max(layers.values(), default=0) + 8 * largest + hidden + activations + _HEAD + _TORCH
