"""The canonical graph equals transformers, on ONNX Runtime and in onnx.reference."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.export.options import ExportOptions
from inference_pio.export.plan import plan_export
from inference_pio.graphs.source import WeightSource

sys.path.insert(0, str(Path(__file__).parents[1]))
from shapes import ALL_SHAPES, original, reference_logits, write_shape

TOLERANCE = 1e-4


@dataclass
class Canonical:
    """A canonical model file and a growing cache around it."""

    path: Path

    def __post_init__(self) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session = ort.InferenceSession(str(self.path), options)

    def empty(self, batch: int) -> dict[str, np.ndarray]:
        pasts = [value for value in self.session.get_inputs() if value.name.startswith("past_key_values.")]
        return {value.name: np.zeros((batch, value.shape[1], 0, value.shape[3]), np.float32) for value in pasts}

    def feeds(self, ids: np.ndarray, mask: np.ndarray, past: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, -ids.shape[1] :]
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **past}

    def step(
        self, ids: np.ndarray, mask: np.ndarray, past: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        logits, *present = self.session.run(None, self.feeds(ids, mask, past))
        return logits, dict(zip(past, present, strict=True))


@pytest.fixture(scope="module", params=[*ALL_SHAPES, "tiny"])
def case(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    path = tiny if request.param == "tiny" else write_shape(request.param, folder / "checkpoint")
    with Checkpoint.open(path) as checkpoint:
        plan = plan_export(checkpoint, ExportOptions())
        model = plan.architecture.build(plan.spec, WeightSource(checkpoint))
        ir.save(model, folder / "canonical.onnx")
    return Canonical(folder / "canonical.onnx"), original(path)


def random_ids(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 2000, (rows, columns))


def test_checker_knows_every_shape(case):
    graph, _ = case
    onnx.checker.check_model(str(graph.path), full_check=True)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(graph.path), strict_mode=True).graph
    known = {value.name for value in (*inferred.value_info, *inferred.output)}
    assert {name for node in inferred.node for name in node.output} <= known


def test_prefill(case):
    graph, model = case
    ids = random_ids(1, 90)
    logits, _ = graph.step(ids, np.ones_like(ids), graph.empty(1))
    assert np.abs(logits - reference_logits(model, ids)).max() < TOLERANCE


def test_one_token(case):
    graph, model = case
    ids = random_ids(1, 1)
    logits, _ = graph.step(ids, np.ones_like(ids), graph.empty(1))
    assert np.abs(logits - reference_logits(model, ids)).max() < TOLERANCE


@pytest.mark.parametrize("chunks", [[1] * 40, [17, 3, 20], [32, 1, 1, 6]], ids=["decode", "chunks", "mixed"])
def test_steps_with_cache(case, chunks):
    graph, model = case
    ids = random_ids(1, 40)
    past, pieces, done = graph.empty(1), [], 0
    for size in chunks:
        done += size
        logits, past = graph.step(ids[:, done - size : done], np.ones((1, done), np.int64), past)
        pieces.append(logits)
    assert np.abs(np.concatenate(pieces, axis=1) - reference_logits(model, ids)).max() < TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
def test_ragged_batch(case, side):
    graph, model = case
    ids, lengths = random_ids(3, 30), (30, 11, 23)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, -length:] = 1
        if side == "right":
            mask[row] = mask[row, ::-1]
    logits, past = graph.step(ids[:, :20], mask[:, :20], graph.empty(3))
    chunk, past = graph.step(ids[:, 20:], mask, past)
    new = random_ids(3, 1)
    longer = np.concatenate([mask, np.ones((3, 1), np.int64)], axis=1)
    last, _ = graph.step(new, longer, past)
    both = np.concatenate([logits, chunk, last], axis=1)
    for row in range(3):
        tokens = np.concatenate([ids[row][mask[row] == 1], new[row]])[None]
        expected = reference_logits(model, tokens)[0]
        found = np.concatenate([both[row, :30][mask[row] == 1], both[row, 30:]])
        assert np.abs(found - expected).max() < TOLERANCE


def test_onnx_reference_agrees(case):
    graph, _ = case
    ids = random_ids(2, 9)
    mask = np.ones_like(ids)
    mask[1, :4] = 0
    feeds = graph.feeds(ids, mask, graph.empty(2))
    found = ReferenceEvaluator(str(graph.path)).run(["logits"], feeds)[0]
    expected = graph.session.run(["logits"], feeds)[0]
    assert np.abs(found - expected)[mask == 1].max() < TOLERANCE
