"""What doctor finds: wheels that overwrite each other, libraries that do not import, GPUs in any words."""

from __future__ import annotations

import re
import sys

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
