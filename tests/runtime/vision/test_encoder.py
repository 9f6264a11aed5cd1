"""What the encoder asks of a manifest; tests/runtime/vision/test_engine_images.py runs it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.errors import BadInputError
from inference_pio.runtime.memory import MemoryBudget
from inference_pio.runtime.vision.encoder import VisionEncoder


def without_graph(graphs):
    return [graph for graph in graphs if graph.role != "vision"]


def with_fewer_inputs(graphs):
    return [replace(graph, inputs=graph.inputs[1:]) if graph.role == "vision" else graph for graph in graphs]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_graph, "lists no vision graph"),
        (with_fewer_inputs, r"vision\.onnx has other inputs than a vision tower"),
    ],
)
def test_a_manifest_without_a_tower_is_refused_before_it_is_loaded(vision_artifact, change, message):
    artifact = Artifact.open(vision_artifact("fp32"))
    broken = Artifact(artifact.path, replace(artifact.manifest, graphs=change(artifact.manifest.graphs)))
    with pytest.raises(BadInputError, match=message):
        VisionEncoder(broken, artifact.manifest.vision, pytest.fail, MemoryBudget(None), 0)
