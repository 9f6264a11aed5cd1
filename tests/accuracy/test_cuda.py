"""On a GPU: every recipe of ort-cuda on the tiny checkpoints meets its gate, and float32 gives ort-cpu's tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_pio.calibration.recipes import SUPPORTED
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.graphs.hardware import profile_of
from inference_pio.machine.gpus import find_gpus
from inference_pio.runtime import Engine, EngineConfig, SamplingParams
from inference_pio.tiny import tiny_checkpoint
from inference_pio.verify import VerifyOptions, verify

GPUS = find_gpus()
PROFILE = profile_of(GPUS[0]) if GPUS else None
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(PROFILE is None, reason="no NVIDIA GPU of a known profile"),
]
FAMILIES = ("glm4_moe_lite", "qwen3", "qwen3_moe")


def made(family: str, precision: str, folder: Path) -> Path:
    assert PROFILE is not None
    options = ExportOptions(target="ort-cuda", hardware=PROFILE.name, precision=precision)
    return export(tiny_checkpoint(family), folder / f"{family}-{precision}", options).path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gates(family: str, precision: str, tmp_path: Path) -> None:
    assert PROFILE is not None
    if precision not in SUPPORTED[f"ort-cuda/{PROFILE.dialect_of('ort-cuda')}"]:
        pytest.skip(f"{precision} is no recipe of this GPU")
    if family != "qwen3" and PROFILE.name == "sm61" and precision != "fp32":
        pytest.skip("experts are float32 alone")
    report = verify(made(family, precision, tmp_path), tiny_checkpoint(family), VerifyOptions(backend="cuda"))
    assert report.passed, report.gate.failures


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_the_cpu(family: str, tmp_path: Path) -> None:
    params = SamplingParams(max_new_tokens=32, temperature=0.0, ignore_eos=True)
    plain = export(tiny_checkpoint(family), tmp_path / "cpu", ExportOptions(precision="fp32")).path
    answers = []
    for path, device in ((plain, "cpu"), (made(family, "fp32", tmp_path), "cuda")):
        with Engine.open(path, EngineConfig(device=device)) as engine:
            answers.append(engine.generate("def main(self):\n    return", params).token_ids)
    assert answers[0] == answers[1]
