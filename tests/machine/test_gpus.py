"""GPUs are read from a stand-in for the driver's tool on the PATH, in whatever words it answers."""

import pytest

from inference_pio.machine import gpus
from inference_pio.machine.gpus import Gpu, find_gpus


@pytest.fixture
def driver_tool(tmp_path, monkeypatch):
    """Puts an `nvidia-smi` on the PATH that runs a line of shell."""

    def put(line):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{line}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return put


def test_a_gpu_with_all_its_facts(driver_tool):
    driver_tool("echo 'NVIDIA GeForce GTX 1060 6GB, 6.1, 6144, 5900, 580.95'")
    assert find_gpus() == [Gpu("NVIDIA GeForce GTX 1060 6GB", "6.1", 6144 << 20, 5900 << 20, "580.95")]


def test_the_question_that_is_asked(driver_tool, tmp_path):
    driver_tool(f'echo "$@" > {tmp_path}/asked')
    assert find_gpus() == []
    asked = (tmp_path / "asked").read_text()
    assert (
        asked.strip() == "--query-gpu=name,compute_cap,memory.total,memory.free,driver_version "
        "--format=csv,noheader,nounits"
    )


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("echo 'A, 6.1, 4096, 1, 1'; echo 'B, 7.5, 8192, 1, 1'", ["A", "B"]),
        ("true", []),
        ("echo 'NVIDIA-SMI has failed'", []),
        ("echo 'A, 6.1, [N/A], 1, 1'", []),
        ("echo 'A, 6.1, 4096, 1, 1'; exit 9", []),
        ("sleep 2; echo 'A, 6.1, 4096, 1, 1'", []),
    ],
    ids=["two", "silent", "words", "no memory", "failed", "hangs"],
)
def test_answers(driver_tool, monkeypatch, line, names):
    monkeypatch.setattr(gpus, "TIMEOUT_SECONDS", 0.5)
    driver_tool(f"PATH=/bin:/usr/bin; {line}")
    assert [gpu.name for gpu in find_gpus()] == names


def test_no_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == []
