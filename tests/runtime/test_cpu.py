"""CPU classes follow from flags, the best one first."""

import os

import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime import cpu

I5_10210U = "fpu sse2 avx avx2 fma f16c bmi2"
EPYC = f"{I5_10210U} avx512f avx512dq avx512bw avx512vl avx512_vnni avx512_bf16"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (I5_10210U, "avx2"),
        (EPYC, "avx512-vnni"),
        (f"{I5_10210U} avx_vnni", "avx-vnni"),
        (f"{I5_10210U} avx512f avx512bw avx512vl", "avx512"),
        (f"{I5_10210U} avx512f avx512_vnni", "avx2"),
        (f"{EPYC} avx_vnni", "avx512-vnni"),
    ],
)
def test_classes(flags, expected):
    assert cpu.cpu_class(frozenset(flags.split())) == expected


def test_no_class_is_the_machines_name():
    assert cpu.cpu_class(frozenset({"sse2"})) not in [name for name, _ in cpu.CLASSES]
    assert cpu.cpu_class(frozenset())


def test_the_classes_an_artifact_is_valid_on(monkeypatch):
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset(I5_10210U.split()))
    for allowed in (["any"], ["avx2"], ["avx512-vnni", "avx2"]):
        cpu.check_cpu_class(allowed)
    with pytest.raises(BadInputError, match="valid on CPUs of class avx512-vnni, avx-vnni, and this one is avx2"):
        cpu.check_cpu_class(["avx512-vnni", "avx-vnni"])


def test_cores_that_this_process_may_use(monkeypatch):
    assert 1 <= cpu.physical_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert cpu.physical_cores() == 1
    monkeypatch.setattr(cpu.psutil, "cpu_count", lambda logical: None)
    assert cpu.physical_cores() == 1
