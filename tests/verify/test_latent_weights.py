"""The simulation of latent attention: the up-projection read back, and roundings where the artifact's kernels round."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime import Engine, EngineConfig
from inference_pio.verify.latent_weights import join_heads
from inference_pio.verify.original import rounded_weights
from inference_pio.verify.reference import layers, write_logits
from inference_pio.verify.scratch import LogitsFile
from inference_pio.verify.simulation import ArtifactWeights
from inference_pio.verify.stored_rows import StoredRows

sys.path.insert(0, str(Path(__file__).parents[1]))
from block_cases import LEAST, export_blocks, open_chain
from shapes import write_shape

NAME = "model.layers.1.self_attn.kv_b_proj.weight"
IDS = np.random.default_rng(1).integers(0, 2000, 60)
ERRORS = {"fp32": 0.0, "fp16": 1e-3, "int8": 3e-3, "int4": 0.06}


@pytest.fixture(scope="module", params=["glm_dense", "glm_direct_queries"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dense layers, so that no rounding sends a token to another expert."""
    return write_shape(request.param, tmp_path_factory.mktemp("latents") / "checkpoint")


@pytest.fixture(scope="module", params=ERRORS)
def artifact(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("artifacts")
    return export(checkpoint, folder / request.param, ExportOptions(precision=request.param))


def test_the_tensor_is_whole_again(checkpoint, artifact):
    found = ArtifactWeights(artifact.file("model.onnx"))
    with Checkpoint.open(checkpoint) as source:
        exact = source.rows(NAME, 0, source.tensors[NAME].shape[0]).copy()
    assert found.shape(NAME) == exact.shape
    stored = found.rows(NAME, 0, len(exact))
    error = np.abs(stored - exact).max()
    assert ERRORS[artifact.manifest.recipe.name] / 30 <= error <= ERRORS[artifact.manifest.recipe.name]
    assert all((stored[first:last] == found.rows(NAME, first, last)).all() for first, last in ((5, 71), (33, 34)))


def simulated(checkpoint: Path, artifact: Artifact, folder: Path) -> np.ndarray:
    sink = LogitsFile(folder, len(IDS), artifact.manifest.model.vocab_size)
    write_logits(checkpoint, rounded_weights(artifact), [IDS], sink)
    return sink.read(0, len(IDS))


def answered(artifact: Artifact) -> np.ndarray:
    with Engine.open(artifact.path, EngineConfig(threads=1)) as engine:
        return engine.logits([int(token) for token in IDS])


def test_the_simulation_is_what_the_artifact_computes(checkpoint, artifact, tmp_path, monkeypatch):
    """And would not be without the two roundings around the latent's space."""
    found = answered(artifact)
    near = np.abs(found - simulated(checkpoint, artifact, tmp_path)).mean()
    monkeypatch.setattr(layers, "round_latents", lambda *_: None)
    far = np.abs(found - simulated(checkpoint, artifact, tmp_path)).mean()
    if artifact.manifest.contract.rounds_activations:
        assert near < far / 2  # a value near a rounding edge may fall to the other side
    else:
        assert near == pytest.approx(far)
        assert near < 1e-5


def test_the_simulation_of_a_grouped_convolution_is_what_blocks_compute(checkpoint, tmp_path, monkeypatch):
    """Nothing else is rounded; and without the two roundings it would not be."""
    recipe = tmp_path / "latents.json"
    recipe.write_text('{"base": "w8a8-static", "overrides": {"*.kv_b_proj.weight": "w8a8-static", "*": "fp32"}}')
    artifact = Artifact.open(export_blocks(checkpoint, tmp_path / "out", str(recipe), **LEAST))
    weights = rounded_weights(artifact)
    assert {name.split("[")[0] for name in weights.rounding} == {NAME.replace(".1.", f".{n}.") for n in range(3)}
    with Checkpoint.open(checkpoint) as source:
        exact = source.rows(NAME, 0, weights.shape(NAME)[0])
    assert 1e-4 < np.abs(weights.rows(NAME, 0, len(exact)) - exact).max() < 3e-3
    with open_chain(artifact.path) as engine:
        found = engine.logits([int(token) for token in IDS])
    near = np.abs(found - simulated(checkpoint, artifact, tmp_path)).mean()
    monkeypatch.setattr(layers, "round_latents", lambda *_: None)
    far = np.abs(found - simulated(checkpoint, artifact, tmp_path)).mean()
    assert near < far / 4


def test_other_tensors_stay_as_they_are():
    rows = StoredRows(0, (2, 2), lambda start, stop: np.zeros((stop - start, 2), np.float32))
    assert join_heads({"model.norm.weight": rows, "a[0].weight": rows}) == {}


def test_a_part_without_the_other_is_refused():
    rows = StoredRows(0, (2, 2, 2), lambda start, stop: np.zeros((stop - start, 2, 2), np.float32))
    with pytest.raises(BadInputError, match=r"holds w\[key\] and not all parts .* export the artifact again"):
        join_heads({"w[key]": rows})
