"""A GPU and a TensorRT that compute on the CPU, and a cache of engines of one's own."""

from __future__ import annotations

from pathlib import Path

import fake_gpu
import pytest
from engine_cases import VERSIONS


@pytest.fixture(params=["trt85", "modern"])
def dialect(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, dialect: str) -> fake_gpu.FakeGpu:
    return fake_gpu.install(monkeypatch, VERSIONS[dialect])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "inference-pio"
