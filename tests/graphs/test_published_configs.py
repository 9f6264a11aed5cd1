"""The published configurations of the shipped models are read without a word of refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.graphs.architectures import find_architecture

SHAPES = sorted((Path(__file__).parents[2] / "tools" / "shapes").glob("*.json"))


@pytest.mark.parametrize("file", SHAPES, ids=lambda file: file.stem)
def test_every_shape_is_read_whole(file: Path):
    values = json.loads(file.read_text("utf-8"))
    config = ConfigReader(values)
    spec = find_architecture(config.need_str("model_type")).read_config(config)
    config.finish()
    assert spec.layers == values.get("text_config", values)["num_hidden_layers"]
