"""Token ids and sources held against each other."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.verify.options import VerifyOptions
from inference_pio.verify.original import (
    Original,
    check_simulation,
    check_tokens,
    passes_for,
    rounded_weights,
    source_matches,
)
from inference_pio.verify.passes import Passes


@pytest.mark.parametrize(("ours", "index"), [([1, 9, 3], 1), ([1, 2], 2), ([1, 2, 3, 4], 3), ([], 0), ([9, 2, 3], 0)])
def test_the_first_difference_is_named(ours: list[int], index: int) -> None:
    found = check_tokens(ours, [1, 2, 3], "theirs")
    assert not found["matches"]
    assert found["first_difference"]["index"] == index


def test_equal_tokens_match() -> None:
    assert check_tokens([1, 2], [1, 2], "theirs") == {"checked_against": "theirs", "tokens": 2, "matches": True}


def test_the_source_is_recognised_by_every_file(tiny: Path, tiny_artifact: Callable[[str], Path]) -> None:
    manifest = Artifact.open(tiny_artifact("int8")).manifest
    with Checkpoint.open(tiny) as checkpoint:
        hashes = checkpoint.file_hashes()
    assert source_matches(manifest, hashes)
    assert not source_matches(manifest, {**hashes, "config.json": {"sha256": "0" * 64, "size": 1}})
    assert not source_matches(manifest, {name: hashes[name] for name in list(hashes)[1:]})


def test_another_vocabulary_is_another_model(tiny: Path, tiny_artifact: Callable[[str], Path]) -> None:
    manifest = Artifact.open(tiny_artifact("int8")).manifest
    other = replace(manifest, model=replace(manifest.model, vocab_size=2047))
    with Checkpoint.open(tiny) as checkpoint, pytest.raises(BadInputError, match="vocabulary of 2047"):
        Original(checkpoint, other, VerifyOptions())


@pytest.mark.parametrize("content", [None, "{}", "not JSON"])
def test_an_unusable_tokenizer_is_refused(
    content: str | None, tiny: Path, tiny_artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    broken = tmp_path / "checkpoint"
    shutil.copytree(tiny, broken)
    (broken / "tokenizer.json").unlink()
    if content is not None:
        (broken / "tokenizer.json").write_text(content)
    manifest = Artifact.open(tiny_artifact("int8")).manifest
    with Checkpoint.open(broken) as checkpoint, pytest.raises(BadInputError, match=r"tokenizer\.json"):
        Original(checkpoint, manifest, VerifyOptions()).tokenize("text")


@pytest.mark.parametrize(
    ("precision", "simulation", "twin"),
    [("fp32", False, False), ("fp16", True, False), ("int8", True, True), ("int4", True, True)],
)
def test_what_is_simulated_follows_from_the_recipe(
    precision: str, simulation: bool, twin: bool, tiny_artifact: Callable[[str], Path]
) -> None:
    artifact = Artifact.open(tiny_artifact(precision))
    assert passes_for(artifact.manifest, VerifyOptions()) == Passes(True, simulation, twin)
    assert passes_for(artifact.manifest, VerifyOptions(simulation=False)) == Passes(True, False, False)
    check_simulation(artifact)
    assert rounded_weights(artifact).rounds_activations == twin


def test_one_weight_of_another_format_is_worth_a_simulation(tiny_artifact: Callable[[str], Path]) -> None:
    manifest = Artifact.open(tiny_artifact("fp32")).manifest
    recipe = replace(manifest.recipe, overrides={"*.down_proj.weight": "fp16"})
    assert passes_for(replace(manifest, recipe=recipe), VerifyOptions()).simulation


def test_several_decoders_cannot_be_simulated(tiny_artifact: Callable[[str], Path]) -> None:
    artifact = Artifact.open(tiny_artifact("int8"))
    graphs = artifact.manifest.graphs * 2
    with pytest.raises(BadInputError, match="has graphs decoder, decoder"):
        check_simulation(replace(artifact, manifest=replace(artifact.manifest, graphs=graphs)))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_an_artifact_names_every_tensor_of_its_checkpoint(
    precision: str, tiny: Path, tiny_artifact: Callable[[str], Path]
) -> None:
    from inference_pio.verify.simulation import ArtifactWeights

    weights = ArtifactWeights(tiny_artifact(precision) / "model.onnx")
    with Checkpoint.open(tiny) as checkpoint:
        for name, info in checkpoint.tensors.items():
            assert weights.shape(name) == info.shape
            stored = weights.rows(name, 0, info.shape[0])
            exact = checkpoint.tensor(name)
            scale = abs(exact).max()
            assert abs(stored - exact).max() <= {"fp32": 0, "fp16": 1e-3, "int8": 0.01, "int4": 0.32}[precision] * scale


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_missing_packages_are_named(
    package: str, tiny: Path, tiny_artifact: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Artifact.open(tiny_artifact("int8"))
    monkeypatch.setitem(sys.modules, package, None)
    with (
        Checkpoint.open(tiny) as checkpoint,
        pytest.raises(BadInputError, match=rf"{package}.*inference-pio\[verify\]"),
    ):
        Original(checkpoint, artifact.manifest, VerifyOptions())
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(BadInputError, match=r"onnx_ir.*inference-pio\[verify\]"):
        check_simulation(artifact)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_vision_tower_is_named_too(
    precision: str, vision_checkpoint: Path, vision_artifact: Callable[[str], Path]
) -> None:
    artifact = Artifact.open(vision_artifact(precision))
    check_simulation(artifact)
    weights = rounded_weights(artifact)
    with Checkpoint.open(vision_checkpoint) as checkpoint:
        for name, info in checkpoint.tensors.items():
            shape = weights.shape(name)
            assert shape is not None and np.prod(shape) == np.prod(info.shape), name
            if precision == "fp32":
                rows = weights.rows(name, 0, shape[0])
                assert np.array_equal(rows.reshape(info.shape), checkpoint.rows(name, 0, shape[0])), name
    blocks = weights.input_rounding("model.visual.blocks.1.attn.qkv.weight")
    assert (blocks is None) == (precision == "fp32")
