"""What doctor finds: wheels that overwrite each other, libraries that do not import, GPUs in any words."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from inference_pio.cli import machine

FLAGS = frozenset({"avx2"})


def test_everything_stands_in_the_facts():
    facts = machine.diagnose()
    assert {"python", "cpu", "memory", "disk", "onnxruntime", "gpus", "packages", "problems"} == set(facts)
    assert facts["problems"] == []
    assert "CPUExecutionProvider" in facts["onnxruntime"]["providers"]
    assert facts["cpu"]["name"]
    assert 0 < facts["memory"]["available"] <= facts["memory"]["total"]


@pytest.mark.parametrize(
    ("wheels", "problem", "words"),
    [
        (("1.31", "1.31"), None, "overwrite each other"),
        ((None, None), None, r"no ONNX Runtime: pip install 'inference-pio\[cpu\]'"),
        (("1.31", None), "libfoo is missing", r"does not import \(libfoo is missing\)"),
    ],
)
def test_problems(wheels, problem, words):
    found = machine._problems(dict(zip(machine.WHEELS, wheels, strict=True)), problem, FLAGS)
    assert len(found) == 1
    assert re.search(words, found[0])


def test_a_sound_installation_has_none():
    assert machine._problems({"onnxruntime": "1.31", "onnxruntime-gpu": None}, None, FLAGS) == []


def test_a_cpu_without_avx2(monkeypatch):
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    (problem,) = machine._problems({"onnxruntime": "1", "onnxruntime-gpu": None}, None, frozenset({"sse2"}))
    assert "no AVX2" in problem


def test_a_library_that_does_not_import(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    providers, problem = machine._providers()
    assert providers == []
    assert problem


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("", []),
        ("NVIDIA H200, 9.0, 143771, 570.10\n", [("NVIDIA H200", "9.0", 143771 << 20)]),
        ("A, 6.1, 4096, 1\nB, 7.5, 8192, 1\n", [("A", "6.1", 4096 << 20), ("B", "7.5", 8192 << 20)]),
        ("NVIDIA-SMI has failed\n", []),
    ],
)
def test_gpus(monkeypatch, output, found):
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=0, stdout=output))
    assert [(gpu["name"], gpu["compute_capability"], gpu["memory"]) for gpu in machine.gpus()] == found


def test_a_driver_that_hangs_fails_or_is_not_there(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert machine.gpus() == []
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    for error in (subprocess.TimeoutExpired("nvidia-smi", 20), OSError("gone")):

        def broken(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(subprocess, "run", broken)
        assert machine.gpus() == []
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=9, stdout="A, 6.1, 4096, 1\n"))
    assert machine.gpus() == []
