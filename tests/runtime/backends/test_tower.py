"""A vision tower in a session of ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.runtime.backends.tower import PIXELS, OrtTower


@pytest.fixture
def artifact(vision_artifact):
    return Artifact.open(vision_artifact("fp32"))


@pytest.fixture
def graph(artifact):
    return artifact.manifest.graph("vision")


def inputs(patches: int, places: int) -> dict[str, np.ndarray]:
    return {
        PIXELS: np.zeros((2, patches, 384), np.float32),
        "position_indices": np.zeros((places, 4), np.int64),
        "position_weights": np.zeros((places, 4), np.float32),
        "patch_positions": np.zeros((places, 2), np.int64),
    }


def test_every_image_has_a_row_per_token(artifact, graph):
    tower = OrtTower(artifact.path, graph, 1)
    assert [found.shape for found in tower.run(inputs(16, 16))] == [(2, 4, 96)] * 4
    with pytest.raises(InferencePioError, match="ONNX Runtime failed on an image"):
        tower.run(inputs(16, 12))
    tower.close()
    tower.close()


def test_a_file_with_other_inputs_than_its_manifest_says_is_refused(artifact, graph):
    with pytest.raises(BadInputError, match=r"vision\.onnx has other inputs than its manifest says"):
        OrtTower(artifact.path, replace(graph, inputs=graph.inputs[1:]), 1)
