"""The benchmark of the kernels runs, here on shapes that an emulated GPU can do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu" / "dp4a_kernels.py"


@pytest.fixture
def benchmark(monkeypatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("dp4a_kernels", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "dp4a_kernels", module)
    specification.loader.exec_module(module)
    sizes = {"WORKING_SET": 1 << 14, "CHECKED_ROWS": 16, "HEADS": 4, "KV_HEADS": 2, "HEAD_DIM": 64}
    for name, value in sizes.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_every_row_is_right_and_has_a_speed(benchmark, kernels, capsys):
    copied = benchmark.copy_bandwidth(kernels.driver, 1)
    rows = [benchmark.linear(kernels, "qkv", (24, 96), 3, 1), benchmark.attention(kernels, 40, 1)]
    for row in rows:
        assert 0 < row.error < 1e-4 and row.microseconds > 0 and row.gigabytes_per_s > 0
        benchmark.show(row, copied)
    assert "| gemv_w8a8 | qkv 24 x 96, 3 tokens |" in capsys.readouterr().out
