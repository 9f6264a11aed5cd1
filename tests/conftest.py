"""Fixtures that many tests share: the tiny checkpoint, artifacts made of it, random checkpoints of odd shapes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_pio.calibration.recipes import RECIPES
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.tiny import tiny_checkpoint

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # many tests import ONNX Runtime by themselves


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The bundled tiny trained Qwen3 checkpoint."""
    return tiny_checkpoint("qwen3")


@pytest.fixture(scope="session")
def tiny_artifact(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_artifact("int8")`: the tiny checkpoint exported with a recipe, once per session."""
    folder = tmp_path_factory.mktemp("artifacts")

    def make(precision: str) -> Path:
        out = folder / precision
        if not out.exists():
            text = "default" if RECIPES[precision].calibrated else None
            few = {"calibration_samples": 16, "calibration_length": 128}
            export(tiny, out, ExportOptions(precision=precision, calibration=text, **few))
        return out

    return make


@pytest.fixture(scope="session")
def block_artifact(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`block_artifact("fp32")`: the tiny checkpoint exported for TensorRT 8.5, three layers in a block, once.

    With hardware sm86 it is for TensorRT 10.15.
    """
    from block_cases import FEW, export_blocks

    folder = tmp_path_factory.mktemp("blocks")

    def make(precision: str, hardware: str = "sm61") -> Path:
        out = folder / f"{precision}-{hardware}"
        if not out.exists():
            where = {"hardware": hardware, "block_layers": 3}
            export_blocks(tiny, out, precision, **where, **(FEW if RECIPES[precision].calibrated else {}))
        return out

    return make


@pytest.fixture(scope="session")
def vision_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3-VL checkpoint."""
    from vision_cases import write_vision_shape

    return write_vision_shape("plain", tmp_path_factory.mktemp("vision") / "checkpoint")


@pytest.fixture(scope="session")
def vision_artifact(vision_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`vision_artifact("int8")`: it exported with a recipe, once per session."""
    folder = tmp_path_factory.mktemp("vision_artifacts")

    def make(precision: str) -> Path:
        out = folder / precision
        if not out.exists():
            export(vision_checkpoint, out, ExportOptions(precision=precision))
        return out

    return make


@pytest.fixture(scope="session")
def vision_blocks(vision_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`vision_blocks("sm61")`: it exported in float32 for TensorRT, once per session; with sm86 for 10.15."""
    from block_cases import export_blocks

    folder = tmp_path_factory.mktemp("vision_blocks")

    def make(hardware: str) -> Path:
        out = folder / hardware
        return out if out.exists() else export_blocks(vision_checkpoint, out, hardware=hardware)

    return make


@pytest.fixture(autouse=True)
def private_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep stamps and derived files out of the user's own cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
