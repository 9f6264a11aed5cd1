"""Models with experts through the engine and through verify: greedy text, caches, batches, the excess gate."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime import Engine, EngineConfig, SamplingParams
from inference_pio.verify import VerifyOptions, verify

sys.path.insert(0, str(Path(__file__).parents[1]))
from shapes import original, write_shape

Make = Callable[[str], Path]
IDS = np.random.default_rng(5).integers(3, 2000, 200).tolist()


@pytest.fixture(scope="module", params=["moe", "moe_dense_between"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape(request.param, tmp_path_factory.mktemp(request.param) / "checkpoint")


@pytest.fixture(scope="module")
def artifact(checkpoint: Path) -> Make:
    def make(precision: str) -> Path:
        out = checkpoint.parent / precision
        if not out.exists():
            export(checkpoint, out, ExportOptions(precision=precision))
        return out

    return make


def test_greedy_tokens_are_the_originals(checkpoint, artifact):
    params = SamplingParams(max_new_tokens=60, temperature=0, ignore_eos=True)
    with Engine.open(artifact("fp32")) as engine:
        found = engine.generate(IDS[:40], params)
    with torch.no_grad():
        expected = original(checkpoint).generate(
            torch.tensor([IDS[:40]]), max_new_tokens=60, min_new_tokens=60, do_sample=False, eos_token_id=None
        )
    assert list(found.token_ids) == expected[0, 40:].tolist()


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_the_prefix_cache_changes_no_token(artifact, precision):
    params = SamplingParams(temperature=0.0, max_new_tokens=24, logprobs=1, ignore_eos=True)
    answers = []
    for cache in (0, 64 << 20):
        with Engine.open(artifact(precision), EngineConfig(threads=2, prefix_cache_bytes=cache)) as engine:
            answers += [engine.generate(IDS, params) for _ in range(2)]
    assert [answer.usage.cached_tokens for answer in answers] == [0, 0, 0, 128]
    assert len({answer.token_ids for answer in answers}) == 1
    assert len({answer.logprobs for answer in answers}) == 1


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_rows_of_a_padded_batch_are_what_they_are_alone(artifact, precision):
    lengths = (1, 40, 131)
    batch, mask = np.zeros((3, 131), np.int64), np.zeros((3, 131), np.int64)
    for row, length in enumerate(lengths):
        batch[row, :length], mask[row, :length] = IDS[row : row + length], 1
    with Engine.open(artifact(precision), EngineConfig(prefix_cache_bytes=0)) as engine:
        found = engine.logits(batch, mask)
        for row, length in enumerate(lengths):
            alone = engine.logits(IDS[row : row + length])
            assert np.abs(found[row, :length] - alone).max() < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_nothing_is_lost_beyond_the_rounding(checkpoint, artifact, tmp_path, precision):
    """The absolute bounds are for trained models; random routers are full of near ties."""
    gate = tmp_path / "gate.json"
    gate.write_text(json.dumps({"absolute": {"kl_mean": 0.1 if precision.startswith("int") else 1e-4}}))
    options = VerifyOptions(window=128, positions=512, threads=1, gate=str(gate))
    report = verify(artifact(precision), checkpoint, options)
    assert report.passed, report.gate.failures
    assert (report.excess is None) == (precision == "fp32")
    notes = " ".join(report.notes)
    assert ("experts' kernel rounds activations" in notes) == precision.startswith("int")


def test_an_expert_in_anothers_place_is_found(checkpoint, artifact, tmp_path):
    """Two experts changed places in the checkpoint that the artifact is held against."""
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    one, two = (f"model.layers.0.mlp.experts.{n}.gate_proj.weight" for n in (0, 1))
    tensors[one], tensors[two] = tensors[two].clone(), tensors[one].clone()
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    report = verify(artifact("fp32"), other, VerifyOptions(window=128, positions=128, threads=1))
    assert not report.passed
    assert not report.source_matches
