"""Token ids and sources held against each other."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import inference_pio.verify
from inference_pio.artifact.bundle import Artifact
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.verify.options import VerifyOptions
from inference_pio.verify.original import Original, check_tokens, rounded_weights, source_matches


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


@pytest.mark.parametrize(("precision", "rounds"), [("fp16", False), ("int8", True), ("int4", True)])
def test_rounded_weights_know_their_kernels(precision: str, rounds: bool, tiny_artifact: Callable[[str], Path]) -> None:
    weights = rounded_weights(Artifact.open(tiny_artifact(precision)))
    assert weights is not None
    assert weights.rounds_activations == rounds


def test_float32_leaves_nothing_to_simulate(tiny_artifact: Callable[[str], Path]) -> None:
    assert rounded_weights(Artifact.open(tiny_artifact("fp32"))) is None


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
            assert abs(stored - exact).max() <= {"fp32": 0, "fp16": 1e-3, "int8": 0.01, "int4": 0.13}[precision] * scale


def test_missing_packages_are_named(
    tiny: Path, tiny_artifact: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Artifact.open(tiny_artifact("int8"))
    monkeypatch.delitem(sys.modules, "inference_pio.verify.reference", raising=False)
    monkeypatch.delattr(inference_pio.verify, "reference", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with Checkpoint.open(tiny) as checkpoint, pytest.raises(BadInputError, match=r"torch.*inference-pio\[verify\]"):
        Original(checkpoint, artifact.manifest, VerifyOptions())
    monkeypatch.delitem(sys.modules, "inference_pio.verify.simulation", raising=False)
    monkeypatch.delattr(inference_pio.verify, "simulation", raising=False)
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(BadInputError, match=r"onnx_ir.*inference-pio\[verify\]"):
        rounded_weights(artifact)


@pytest.mark.parametrize("change", [{"window": 0}, {"positions": 0}, {"threads": -1}])
def test_sizes_below_one_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(BadInputError, match="at least 1"):
        VerifyOptions(**change)


def test_a_reference_is_either_reused_or_saved() -> None:
    with pytest.raises(BadInputError, match="one of the two"):
        VerifyOptions(reference=Path("a"), save_reference=Path("b"))
