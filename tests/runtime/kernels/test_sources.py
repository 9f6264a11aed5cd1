"""The sources compile for old and new GPUs, without spills and with DP4A, once per machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kernel_report import Resources, machine_dp4a, ptx_dp4a, resources, table

from inference_pio.errors import BadInputError
from inference_pio.runtime.kernels import nvrtc, plans, sources
from inference_pio.runtime.kernels.nvrtc import Compiled, Nvrtc

DOCUMENT = Path(__file__).parents[3] / "docs" / "kernels.md"
TARGETS = ("sm_61", "sm_75", "sm_90")
SHARED_OF_A_BLOCK = 48 << 10


@pytest.fixture(scope="module")
def compiled() -> dict[tuple[str, str], Compiled]:
    """Every program for every target."""
    compiler = Nvrtc()
    return {(p, t): sources.compile_program(compiler, p, t) for p in sources.PROGRAMS for t in TARGETS}


@pytest.fixture(scope="module")
def reported(compiled: dict[tuple[str, str], Compiled]) -> dict[str, list[Resources]]:
    """The kernels of every target."""
    return {t: [kernel for p in sources.PROGRAMS for kernel in resources(compiled[p, t], t)] for t in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_kernels_fit_and_spill_nothing(reported, target):
    kernels = reported[target]
    assert {kernel.name for kernel in kernels} == {name for names in plans.names().values() for name in names}
    for kernel in kernels:
        assert kernel.spills == 0, kernel
        assert kernel.registers * kernel.threads <= 65536 and kernel.shared <= SHARED_OF_A_BLOCK, kernel


def test_enough_warps_run_on_pascal_to_hide_its_memory(reported):
    """16 warps with 512 bytes in flight each are the 7 to 9 KB that latency times bandwidth asks for."""
    assert min(kernel.warps for kernel in reported["sm_61"]) >= 16


def test_products_and_scores_are_dp4a(compiled, reported):
    expected = {"gemv_w8a8_m1": 24, "gemv_w8a8_m8": 64, "attend_d128_g4": 128, "quantize_tokens": 0, "attend_merge": 0}
    for target in TARGETS:
        found = {kernel.name: kernel.dp4a for kernel in reported[target]}
        assert {name: found[name] for name in expected} == expected
    for program, names in plans.names().items():
        for name in names:
            assert machine_dp4a(compiled[program, "sm_61"], name) == ptx_dp4a(compiled[program, "sm_61"], name)


def test_blocks_are_those_that_the_kernels_were_compiled_for(reported):
    threads = {kernel.name: kernel.threads for kernel in reported["sm_61"]}
    assert plans.gemv_plan(8, 16).block == threads["gemv_w8a8_m8"]
    assert plans.quantize_plan(1, False).block == threads["quantize_tokens"] == threads["quantize_static"]
    assert threads["attend_d64_g8"] == plans.ATTEND_THREADS
    assert max(plans.HEAD_SIZES) == threads["attend_merge"] == threads["cache_store"]


def test_a_kernel_that_spills_is_reported():
    """Guards the report: the bound on registers leaves no room for 64 live sums."""
    body = "float s[64]; for (int i = 0; i < 64; ++i) s[i] = x[i * 97]; __syncthreads();"
    body += "for (int j = 0; j < n; ++j) for (int i = 0; i < 64; ++i) s[i] = s[i] * s[(i + 1) % 64] + x[j];"
    body += "float t = 0; for (int i = 0; i < 64; ++i) t += s[i]; x[threadIdx.x] = t;"
    text = f'extern "C" __global__ void __launch_bounds__(1024, 2) f(float* x, int n) {{ {body} }}'
    (kernel,) = resources(Nvrtc().compile(text, "f.cu", {}, "sm_61"), "sm_61")
    assert kernel.spills > 0 and kernel.registers <= 32 and kernel.threads == 1024 and kernel.dp4a == 0


def test_the_documented_table_is_the_compiler_s(reported):
    assert table(reported["sm_61"]) in DOCUMENT.read_text(encoding="utf-8"), "run tools/kernel_report.py"


def test_the_target_follows_the_gpu():
    compiler = Nvrtc()
    assert [compiler.target(capability) for capability in (61, 75, 90)] == ["sm_61", "sm_75", "sm_90"]
    assert compiler.target(999) == f"compute_{compiler.architectures()[-1]}"
    with pytest.raises(BadInputError, match=r"compute capability 6\.1 and this GPU has 6\.0"):
        compiler.target(60)


def test_a_newer_gpu_gets_ptx():
    compiled = sources.compile_program(Nvrtc(), "quantize", "compute_75")
    assert compiled.image == compiled.ptx.encode() + b"\0" and ".target sm_75" in compiled.ptx


def test_errors_of_the_compiler_are_told():
    with pytest.raises(BadInputError, match=r"a\.cu does not compile for sm_61: a\.cu\(1\): error: .*nothing"):
        Nvrtc().compile("__device__ int f() { return nothing; }", "a.cu", {}, "sm_61")


def test_without_the_compiler_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(nvrtc, "LIBRARY", "libnvrtc-missing.so")
    with pytest.raises(BadInputError, match=re.escape("pip install 'inference-pio[kernels]'")):
        Nvrtc()


def test_machine_code_is_made_once_and_again_when_the_sources_change(tmp_path, monkeypatch):
    made: list[str] = []

    def compile_program(compiler: Nvrtc, program: str, target: str) -> Compiled:
        made.append(f"{program} {target}")
        return Compiled(program.encode(), "", "")

    monkeypatch.setattr(sources, "compile_program", compile_program)
    found = sources.images(61, tmp_path)
    assert found == sources.images(61, tmp_path) == {program: program.encode() for program in sources.PROGRAMS}
    assert made == [f"{program} sm_61" for program in sources.PROGRAMS]
    for index in range(sources.KEPT):
        monkeypatch.setattr(sources, "OPTIONS", (f"-DX={index}",))
        sources.images(61, tmp_path)
    assert len(made) == len(sources.PROGRAMS) * (1 + sources.KEPT)
    assert len(list((tmp_path / "kernels").iterdir())) == sources.KEPT
    assert (tmp_path / "kernels").stat().st_mode & 0o777 == 0o700


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "kernels").write_text("in the way")
    with pytest.raises(BadInputError, match="cannot be written"):
        sources.images(61, tmp_path)


def test_machine_code_that_others_could_have_written_is_not_loaded(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels").chmod(0o777)
    with pytest.raises(BadInputError, match="others can write to"):
        sources.images(61, tmp_path)
