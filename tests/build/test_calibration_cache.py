"""TensorRT's calibration cache as text."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from lint_cases import QDQ, SCALES, graph

from inference_pio.artifact.bundle import Artifact
from inference_pio.build import calibration_cache as calibration_cache_module
from inference_pio.build.calibration_cache import activation_scales, calibration_cache
from inference_pio.cli.main import run


def test_a_scale_is_the_bits_of_a_float():
    text = calibration_cache({"conv1": struct.unpack(">f", bytes.fromhex("3c010a14"))[0]})
    assert text == "TRT-8503-EntropyCalibration2\nconv1: 3c010a14\n"


def test_scales_of_activations_are_found_and_those_of_weights_are_not(tmp_path):
    (tmp_path / "x.onnx").write_bytes(graph(QDQ, "float[1,2] x", "float[1,3] y", SCALES).SerializeToString())
    assert activation_scales(tmp_path / "x.onnx") == {"x": 0.5}


def test_the_command_writes_a_cache_for_every_graph(block_artifact, tmp_path, capsys):
    artifact = block_artifact("w8a8-static")
    assert run(["build", str(artifact), "--calibration-cache", str(tmp_path / "caches")]) == 0
    assert "wrote" in capsys.readouterr().out
    found = sorted(path.name for path in (tmp_path / "caches").iterdir())
    assert found == ["block-00.cache", "block-01.cache", "head.cache"]
    header, *lines = (tmp_path / "caches" / "block-00.cache").read_text().splitlines()
    assert header == "TRT-8503-EntropyCalibration2"
    scales = activation_scales(Artifact.open(artifact).file("block-00.onnx"))
    read = [struct.unpack(">f", bytes.fromhex(line.rpartition(": ")[2]))[0] for line in lines]
    assert np.array_equal(np.float32(read), np.float32(list(scales.values())))
    assert len(lines) >= 8


def test_a_vision_tower_has_one_too(vision_blocks, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration_cache_module, "activation_scales", lambda file: {"x": 1.0})
    assert run(["build", str(vision_blocks("sm61")), "--calibration-cache", str(tmp_path / "caches")]) == 0
    assert {path.name for path in (tmp_path / "caches").iterdir()} == {"block-00.cache", "head.cache", "vision.cache"}


@pytest.mark.parametrize("precision", ["fp32"])
def test_without_quantized_activations_there_is_no_cache(block_artifact, tmp_path, capsys, precision):
    assert run(["build", str(block_artifact(precision)), "--calibration-cache", str(tmp_path / "caches")]) == 2
    assert "--precision w8a8-static" in capsys.readouterr().err
    assert not (tmp_path / "caches").exists()


@pytest.mark.parametrize(
    "options",
    [["--force"], ["--device", "0"], ["--max-context", "77"], ["--workspace", "1GB"], ["--max-image-tokens", "9"]],
)
def test_options_of_building_are_refused(block_artifact, tmp_path, capsys, options):
    arguments = ["build", str(block_artifact("fp32")), "--calibration-cache", str(tmp_path / "out"), *options]
    assert run(arguments) == 2 and f"{options[0]} is for building" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_versions_without_calibrators_get_none(block_artifact, tmp_path, capsys):
    artifact = block_artifact("fp32", "sm86")
    assert run(["build", str(artifact), "--calibration-cache", str(tmp_path / "caches")]) == 2
    assert "read by TensorRT 8.5" in capsys.readouterr().err
    assert not (tmp_path / "caches").exists()
