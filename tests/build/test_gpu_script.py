"""The script for a machine with a GPU, over stand-ins."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import fake_gpu
import pytest
from engine_cases import run_here

from inference_pio.build import pipeline

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "tensorrt_blocks.py"


def test_it_builds_compares_and_times(monkeypatch, block_artifact, tmp_path, capsys):
    fake_gpu.install(monkeypatch)
    monkeypatch.setattr(pipeline, "run_worker", run_here)
    main = runpy.run_path(str(SCRIPT))["main"]
    few = ["--prompt-tokens", "20", "--new-tokens", "3", "--repeat", "1"]
    assert main([str(block_artifact("fp32")), *few, "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["max_logit_difference"] == 0 and found["top1_agreement"] == 1
    assert len(found["engines"]) == 3 and set(found["speed"]) == {"chain", "tensorrt"}
    assert found["max_feature_difference"] is None
    assert "Fake GTX 1060, TensorRT 8.5.3.1" in capsys.readouterr().out


def test_it_compares_features_of_an_image(monkeypatch, vision_blocks, tmp_path, capsys):
    fake_gpu.install(monkeypatch)
    monkeypatch.setattr(pipeline, "run_worker", run_here)
    few = ["--prompt-tokens", "5", "--new-tokens", "2", "--repeat", "1", "--json", str(tmp_path / "out.json")]
    assert runpy.run_path(str(SCRIPT))["main"]([str(vision_blocks("sm61")), *few]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["max_feature_difference"] < 1e-5 and found["speed"]["tensorrt"]["image_s"] > 0
    assert "difference of an image's features" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(block_artifact, capsys):
    assert runpy.run_path(str(SCRIPT))["main"]([str(block_artifact("fp32"))]) == 2
    assert "TensorRT cannot be imported" in capsys.readouterr().err


def test_without_a_gpu_the_other_script_makes_nothing(monkeypatch, tmp_path):
    script = SCRIPT.with_name("ort_cuda.py")
    monkeypatch.setattr("sys.argv", [str(script), "qwen3-0.6b", "--hardware", "sm86", "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit, match=r"error: .*, or try the script with --device cpu"):
        runpy.run_path(str(script), run_name="__main__")
    assert not (tmp_path / "work").exists()
