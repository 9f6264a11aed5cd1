"""The graph lowered to ort-cpu equals transformers: shared buffers full of NaN, right padding, steps."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from inference_pio.artifact.bundle import Artifact
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export

sys.path.insert(0, str(Path(__file__).parents[1]))
from shapes import ALL_SHAPES, original, reference_logits, write_shape

TOLERANCE = 1e-4
CAPACITY = 128


@dataclass
class Lowered:
    """An artifact's session over buffers of CAPACITY rows that start out as NaN.

    Latent caches are handed in up to the rows in use, as the engine does. A batch cannot be, so there the rows behind
    hold large numbers, which must not count.
    """

    path: Path
    rows: int = 1

    def __post_init__(self) -> None:
        artifact = Artifact.open(self.path)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session = ort.InferenceSession(str(artifact.file("model.onnx")), options)
        cache = artifact.manifest.cache
        shape = (self.rows, cache.kv_heads, CAPACITY, cache.head_dim)
        self.exact = cache.kinds == ["latent"]
        unused = 1e3 if self.exact and self.rows > 1 else np.nan
        self.buffers = {
            f"{layer}.{kind}": np.full(shape, unused, np.float32)
            for layer in range(cache.layers)
            for kind in cache.kinds
        }

    def step(self, ids: np.ndarray, mask: np.ndarray, keep: int | None = None) -> np.ndarray:
        binding = self.session.io_binding()
        used = mask.shape[1] if self.exact and self.rows == 1 else CAPACITY
        for name, buffer in self.buffers.items():
            value = ort.OrtValue.ortvalue_from_numpy(buffer[:, :, :used])
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", mask)
        if keep is not None:
            binding.bind_ortvalue_input(
                "num_logits_to_keep", ort.OrtValue.ortvalue_from_numpy(np.array([keep], np.int64))
            )
        binding.bind_output("logits")
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()[-1].numpy()


@pytest.fixture(scope="module", params=[*ALL_SHAPES, "tiny"])
def case(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    path = tiny if request.param == "tiny" else write_shape(request.param, folder / "checkpoint")
    export(path, folder / "fp32", ExportOptions(precision="fp32"))
    return folder / "fp32", original(path)


def random_ids(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 2000, (rows, columns))


def ones(length: int) -> np.ndarray:
    return np.ones((1, length), np.int64)


def test_checker_accepts_the_file(case):
    onnx.checker.check_model(str(case[0] / "model.onnx"))


@pytest.mark.parametrize(
    "chunks", [[90], [1] * 90, [64, 26], [30, 1, 1, 58]], ids=["prefill", "decode", "two", "mixed"]
)
def test_chunks(case, chunks):
    path, model = case
    graph, ids, done, pieces = Lowered(path), random_ids(1, 90), 0, []
    for size in chunks:
        done += size
        pieces.append(graph.step(ids[:, done - size : done], ones(done)))
    assert np.abs(np.concatenate(pieces, axis=1) - reference_logits(model, ids)).max() < TOLERANCE


def test_full_cache(case):
    path, model = case
    graph, ids = Lowered(path), random_ids(1, CAPACITY)
    first = graph.step(ids[:, :-1], ones(CAPACITY - 1))
    last = graph.step(ids[:, -1:], ones(CAPACITY))
    found = np.concatenate([first, last], axis=1)
    assert np.abs(found - reference_logits(model, ids)).max() < TOLERANCE


def test_ragged_batch_then_decode(case):
    path, model = case
    lengths = np.array([20, 7, 1])
    graph, ids = Lowered(path, rows=3), random_ids(3, 20)
    mask = (np.arange(20) < lengths[:, None]).astype(np.int64)
    prefill = graph.step(ids, mask)
    new = random_ids(3, 5)
    steps = []
    for count in range(1, 6):
        total = (np.arange(20 + count) < lengths[:, None] + count).astype(np.int64)
        steps.append(graph.step(new[:, count - 1 : count], total))
    for row, length in enumerate(lengths):
        expected = reference_logits(model, np.concatenate([ids[row, :length], new[row]])[None])[0]
        found = np.concatenate([prefill[row, :length], *(step[row] for step in steps)])
        assert np.abs(found - expected).max() < TOLERANCE


@pytest.mark.parametrize(("keep", "expected"), [(None, 12), (0, 12), (1, 1), (5, 5), (40, 12)])
def test_logits_to_keep(case, keep, expected):
    path, _ = case
    ids = random_ids(1, 12)
    everything = Lowered(path).step(ids, ones(12))
    kept = Lowered(path).step(ids, ones(12), keep)
    assert kept.shape[1] == expected
    assert np.abs(kept - everything[:, -expected:]).max() < 1e-5


def test_greedy_text_is_the_original(tiny, tiny_artifact):
    from inference_pio.runtime import Engine, SamplingParams

    model = original(tiny)
    with Engine.open(tiny_artifact("fp32")) as engine:
        prompt = engine.tokenizer.encode("class Parser:\n    def ")
        found = engine.generate(prompt, SamplingParams(max_new_tokens=200, temperature=0, ignore_eos=True))
    with torch.no_grad():
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=200, min_new_tokens=200, do_sample=False, eos_token_id=None
        )[0, len(prompt) :].tolist()
    assert list(found.token_ids) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sharded_half_precision_checkpoint(tmp_path, dtype):
    path = write_shape("bias", tmp_path / "checkpoint", dtype, shard_size="200KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    export(path, tmp_path / "fp32", ExportOptions(precision="fp32"))
    ids = random_ids(1, 20)
    found = Lowered(tmp_path / "fp32").step(ids, ones(20))
    assert np.abs(found - reference_logits(original(path), ids)).max() < TOLERANCE
