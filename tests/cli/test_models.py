"""`inference-pio models`: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_pio.cli import main
from inference_pio.models.lookup import VARIABLE


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_artifact: Callable[[str], Path]) -> Path:
    """A folder of artifacts in which one plugin finds the tiny one, and another that of a wrong architecture."""
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in ("qwen3_4b_instruct_2507", "glm_4_7_flash"):
        (shared / name).symlink_to(tiny_artifact("int8"), target_is_directory=True)
    monkeypatch.setenv(VARIABLE, str(shared))
    monkeypatch.chdir(tmp_path)
    return shared


def test_json(capsys: pytest.CaptureFixture[str], environment: Path):
    assert main.run(["models", "--json", "-"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["plugins"]}
    assert rows["qwen3_4b_instruct_2507"] == {
        **{"name": "qwen3_4b_instruct_2507", "package": "inference-pio", "family": "Qwen3", "architecture": "qwen3"},
        **{"parameters": 4_022_468_096, "artifact": str(environment / "qwen3_4b_instruct_2507"), "gate": None},
        **{"validation_passed": None, "problem": None},
        "export_command": "inference-pio export Qwen/Qwen3-4B-Instruct-2507 -o artifacts/qwen3_4b_instruct_2507 "
        "--precision int8 --verify",
    }
    coder = rows["qwen3_coder_30b"]
    assert coder["artifact"] is None and coder["problem"] is None
    assert "inference-pio export Qwen/Qwen3-Coder-30B-A3B" in coder["export_command"]
    assert "is one of glm4_moe_lite" in rows["glm_4_7_flash"]["problem"]


def test_table(capsys: pytest.CaptureFixture[str], environment: Path):
    assert main.run(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "family", "parameters", "gate", "artifact"]
    found = next(line for line in lines if line.startswith("qwen3_4b"))
    assert "4,022,468,096" in found and found.endswith(str(environment / "qwen3_4b_instruct_2507"))
    assert "not recorded" in found
    missing = next(line for line in lines if line.startswith("qwen3_vl"))
    assert missing.split() == ["qwen3_vl_2b_instruct", "Qwen3-VL", "2,127,532,032", "-", "none"]
    commands = [line.split()[2] for line in lines if line.startswith("  inference-pio export ")]
    assert commands == [
        *("Qwen/Qwen3-Coder-30B-A3B-Instruct", "Qwen/Qwen3-VL-2B-Instruct", "zai-org/GLM-4.7-Flash"),
    ]
    assert any(line.startswith("glm_4_7_flash: ") and "artifact of a qwen3 model" in line for line in lines)


def test_a_recorded_gate(capsys: pytest.CaptureFixture[str], environment: Path, tmp_path: Path):
    folder = environment / "qwen3_4b_instruct_2507"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["accuracy"] = {"gate": "int8", "passed": False, "metrics": {}, "failures": ["kl_mean"]}
    folder.unlink()
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert main.run(["models"]) == 0
    assert "int8 FAILED" in capsys.readouterr().out
    assert main.run(["models", "--json", "-"]) == 0
    row = json.loads(capsys.readouterr().out)["plugins"][0]
    assert (row["gate"], row["validation_passed"]) == ("int8", False)
