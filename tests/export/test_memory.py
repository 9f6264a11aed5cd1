"""Exporting takes the same memory whatever the number of layers, and no more than was said before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).parents[1]))
from random_checkpoint import published_config, write_random_checkpoint
from shapes import write_shape

WIDE = {
    "vocab_size": 2048,
    "hidden_size": 768,
    "intermediate_size": 2304,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 256,
}
SCRIPT = """
import sys
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
export(sys.argv[1], sys.argv[2], ExportOptions(precision=sys.argv[3], threads=2))
"""


def peak(checkpoint: Path, out: Path, precision: str) -> int:
    """Peak resident bytes of a process that does nothing but export."""
    command = [sys.executable, "-c", SCRIPT, str(checkpoint), str(out), precision]
    subprocess.run(command, check=True)
    report = json.loads((out / "build-report.json").read_text())
    assert report["process_peak_bytes"] < report["expected_peak_bytes"]
    return report["process_peak_bytes"]


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_experts(tmp_path):
    """56 more experts are 176 MB as float32, 44 MB as int8, 22 MB as int4."""
    sizes = {"hidden_size": 512, "moe_intermediate_size": 512, "num_hidden_layers": 1, "head_dim": 32}
    for count in (8, 64):
        write_shape("moe", tmp_path / str(count), num_experts=count, **sizes)
    for precision in ("int8", "int4", "fp32", "fp16"):
        peaks = [peak(tmp_path / str(n), tmp_path / f"{precision}-{n}", precision) for n in (8, 64)]
        assert peaks[1] - peaks[0] < 15_000_000, f"{precision}: {peaks}"


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_model(tmp_path):
    """Ten more layers are 310 MB as float32 and 78 MB as int8; kept in memory they would be seen."""
    for layers in (2, 12):
        config = {**published_config("qwen3-0.6b", layers), **WIDE}
        write_random_checkpoint(tmp_path / str(layers), config, shard_bytes=40_000_000)
    for precision in ("int8", "int4", "fp32"):
        peaks = [peak(tmp_path / str(n), tmp_path / f"{precision}-{n}", precision) for n in (2, 12)]
        assert peaks[1] - peaks[0] < 30_000_000, f"{precision}: {peaks}"
