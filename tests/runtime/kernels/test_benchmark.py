"""The benchmark of the kernels runs, here on shapes that an emulated GPU can do."""

from __future__ import annotations

import importlib.util
import json
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


def test_the_whole_script(benchmark, kernels, monkeypatch, tmp_path, capsys):
    for name, value in {"LINEARS": {"o": (16, 32)}, "TOKENS": (1,), "CONTEXTS": (8,)}.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark, "Kernels", lambda driver, cache_dir: kernels)
    arguments = ["--repeat", "1", "--json", str(tmp_path / "out.json")]
    assert benchmark.main(arguments, kernels.driver.library) == 0
    facts = json.loads((tmp_path / "out.json").read_text())
    assert [row["kernel"] for row in facts["rows"]] == ["gemv_w8a8", "attend"] and facts["gpu"]["capability"] >= 61
    monkeypatch.setattr(benchmark, "LARGEST_ERROR", 0.0)
    assert benchmark.main(arguments, kernels.driver.library) == 3
    assert "further from float64 than 0.0: gemv_w8a8 o 16 x 32, 1 tokens" in capsys.readouterr().err
    assert benchmark.main([*arguments, "--device", "7"], kernels.driver.library) == 2
    assert "error: GPU 7 does not exist" in capsys.readouterr().err


def test_every_row_is_right_and_has_a_speed(benchmark, kernels, capsys):
    copied = benchmark.copy_bandwidth(kernels.driver, 1)
    rows = [benchmark.linear(kernels, "qkv", (24, 96), 3, 1), benchmark.attention(kernels, 40, 1)]
    for row in rows:
        assert 0 < row.error < 1e-4 and row.microseconds > 0 and row.gigabytes_per_s > 0
        benchmark.show(row, copied)
    assert "| gemv_w8a8 | qkv 24 x 96, 3 tokens |" in capsys.readouterr().out
