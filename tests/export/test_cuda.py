"""Exports for GPUs: what the manifest says, what verify reads back, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.verify import VerifyOptions, verify
from inference_pio.verify.simulation import ArtifactWeights
from inference_pio.verify.weights import InputRounding

TABLE = "model.embed_tokens.weight"


def options(**changes: object) -> ExportOptions:
    return ExportOptions(**{"target": "ort-cuda", "hardware": "sm61", "precision": "int4", "layers": 2} | changes)


@pytest.fixture(scope="module")
def old(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(tiny, tmp_path_factory.mktemp("cuda") / "int4", options())


def test_the_manifest_of_sm61(old: Artifact) -> None:
    manifest = old.manifest
    assert (manifest.target, manifest.dialect, manifest.hardware) == ("ort-cuda", "sm61", "sm61")
    assert manifest.requires.packages == {"onnxruntime": "1.20"}
    assert (manifest.cache.dtype, manifest.contract.rounds_activations) == ("float32", True)
    assert manifest.recipe.weights == {"layers": "int4-exact", "edges": "w8a8"}
    assert not (old.path / "genai_config.json").exists()
    outputs = {output.name for graph in manifest.graphs for output in graph.outputs}
    assert {"logits", "candidate_ids", "candidate_masses"} <= outputs


def test_the_simulation_reads_int8_rows(old: Artifact, tiny: Path) -> None:
    weights = ArtifactWeights(old.path / "model.onnx")
    assert weights.input_rounding(TABLE) == InputRounding()
    assert weights.input_rounding("model.layers.0.mlp.down_proj.weight") is None
    ids = np.array([0, 7, 1999])
    with Checkpoint.open(tiny) as checkpoint:
        exact = np.concatenate([checkpoint.rows(TABLE, int(i), int(i) + 1) for i in ids])
    found = weights.embedding_rows(TABLE, ids)
    assert np.array_equal(found[1:2], weights.rows(TABLE, 7, 8))
    steps = np.abs(exact).max(axis=1, keepdims=True) / 127
    assert np.abs(found - exact).max() > 0 and (np.abs(found - exact) <= 0.501 * steps).all()


def test_the_gate_on_the_cpu(old: Artifact, tiny: Path) -> None:
    report = verify(old.path, tiny, VerifyOptions(backend="cpu", positions=256, window=128))
    assert report.excess is not None and report.excess.twin_kl_mean is not None
    assert report.excess.agreement_kl_mean < 5e-5


def test_sixteen_bits_of_cache(tiny: Path, tmp_path: Path) -> None:
    artifact = export(tiny, tmp_path / "half", options(hardware="sm86", precision="fp16", layers=1))
    manifest = artifact.manifest
    assert (manifest.dialect, manifest.cache.dtype) == ("modern", "float16")
    assert manifest.memory.cache_bytes_per_token == manifest.cache.kv_heads * manifest.cache.head_dim * 2 * 2
    assert ArtifactWeights(artifact.path / "model.onnx").rounds_activations


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_cache": "int8", "calibration": "default"}, "--kv-cache int8 is not available on ort-cuda/sm61"),
        ({"precision": "fp16"}, "recipe fp16 does not run on target ort-cuda/sm61: use fp32, int4"),
        ({"hardware": "cpu"}, "target ort-cuda does not run on cpu"),
    ],
)
def test_what_is_refused(tiny: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        export(tiny, tmp_path / "out", options(**changes))
    assert not list(tmp_path.iterdir())
