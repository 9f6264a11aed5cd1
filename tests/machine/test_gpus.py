"""GPUs are read from stand-ins for NVML's bindings and the driver's tool, in whatever words they answer."""

import sys
from types import SimpleNamespace

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


@pytest.fixture(autouse=True)
def no_bindings(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)


class NvmlError(Exception):
    """What the bindings raise."""


def bindings(*cards, text=str, broken=()):
    """A module like pynvml: cards are (name, capability, total, free), functions named in `broken` raise."""
    closed = []
    functions = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: closed.append(True),
        "nvmlSystemGetDriverVersion": lambda: text("580.95"),
        "nvmlDeviceGetCount": lambda: len(cards),
        "nvmlDeviceGetHandleByIndex": lambda index: cards[index],
        "nvmlDeviceGetName": lambda card: text(card[0]),
        "nvmlDeviceGetCudaComputeCapability": lambda card: card[1],
        "nvmlDeviceGetMemoryInfo": lambda card: SimpleNamespace(total=card[2], free=card[3]),
    }

    def fail(*_):
        raise NvmlError

    functions.update(dict.fromkeys(broken, fail))
    return SimpleNamespace(NVMLError=NvmlError, closed=closed, **functions)


@pytest.mark.parametrize("text", [str, lambda text: text.encode()], ids=["text", "bytes"])
def test_nvml_comes_first(monkeypatch, driver_tool, text):
    driver_tool("echo 'From the tool, 6.1, 6144, 5900, 1'")
    module = bindings(("NVIDIA H200", (9, 0), 7 << 30, 5 << 30), ("Tesla P40", (6, 1), 24 << 30, 1), text=text)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert find_gpus() == [
        Gpu("NVIDIA H200", "9.0", 7 << 30, 5 << 30, "580.95"),
        Gpu("Tesla P40", "6.1", 24 << 30, 1, "580.95"),
    ]
    assert module.closed == [True]


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetMemoryInfo"])
def test_the_tool_answers_where_nvml_fails(monkeypatch, driver_tool, broken):
    driver_tool("echo 'From the tool, 6.1, 6144, 5900, 1'")
    monkeypatch.setitem(sys.modules, "pynvml", bindings(("A", (9, 0), 1, 1), broken=(broken,)))
    assert [gpu.name for gpu in find_gpus()] == ["From the tool"]


def test_nvml_without_gpus_is_believed(monkeypatch, driver_tool):
    driver_tool("echo 'From the tool, 6.1, 6144, 5900, 1'")
    monkeypatch.setitem(sys.modules, "pynvml", bindings())
    assert find_gpus() == []


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
