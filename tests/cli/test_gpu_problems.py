"""What doctor says of GPUs whose driver or packages do not serve them, and what to install."""

import re

import pytest

from inference_pio.cli import machine
from inference_pio.cli.gpu_problems import EXTRAS, gpu_problems, unserved_problems, verdict
from inference_pio.graphs.hardware import profiles
from inference_pio.machine.gpus import Gpu


def gpu(capability="6.1", driver="580.95", name="GTX 1060"):
    return Gpu(name, capability, 6 << 30, 5 << 30, driver)


@pytest.mark.parametrize(
    ("card", "versions", "words"),
    [
        (gpu(), {"onnxruntime-gpu": "1.31.1"}, r"no code for GTX 1060 \(compute capability 6.1\); 1.26.0 is the last"),
        (gpu(), {"onnxruntime-gpu": "1.31.1"}, r"pip install 'inference-pio\[cuda-sm61\]'"),
        (gpu(), {"onnxruntime-gpu": "1.24.0"}, r"runs code for an older GPU .* without its int8: .*cuda-sm61"),
        (
            gpu(),
            {"nvidia-cudnn-cu12": "9.12.0.46"},
            "is the last that does: pip install 'nvidia-cudnn-cu12<9.11'",
        ),
        (gpu(), {"nvidia-cudnn-cu12": "9.11.0"}, "nvidia-cudnn-cu12 9.11.0 does not serve GTX 1060"),
        (
            gpu(),
            {"tensorrt": "10.15.1"},
            r"TensorRT 10.15.1 does not serve .*; 8.6.1 .*\[trt85\]', on Python 3.10",
        ),
        (gpu(), {"tensorrt": "8.5.3.1", "nvidia-cudnn-cu11": "9.10.2"}, r"loads cuDNN 8, .*9.10.2: .*\[trt85\]"),
        (gpu(driver="590.44.01"), {}, "driver 590.44.01 no longer serves GTX 1060: install R580"),
        (gpu("8.9"), {"tensorrt": "8.5.3.1"}, r"TensorRT 8.5.3.1 is older than 10.15, .*\[tensorrt\]'"),
        (
            gpu("8.9", "570.1"),
            {"onnxruntime-gpu": "1.31.1"},
            "for CUDA 13, which needs driver 580: 570.1 is older",
        ),
        (
            gpu("6.1", "520.0"),
            {"onnxruntime-gpu": "1.20.2"},
            "for CUDA 12, which needs driver 525.60: 520.0 is older",
        ),
    ],
)
def test_what_does_not_serve_a_card(card, versions, words):
    (problem,) = gpu_problems([card, card], versions)
    assert re.search(words, problem)


@pytest.mark.parametrize(
    ("card", "versions"),
    [
        (gpu(), {"onnxruntime-gpu": "1.20.2", "nvidia-cudnn-cu12": "9.10.2.21", "tensorrt": "8.5.3.1"}),
        (gpu(), {"tensorrt": "8.6.1.6"}),
        (gpu(), {}),
        (gpu(driver="535.1"), {"onnxruntime-gpu": "1.10.0", "tensorrt": None}),
        (gpu("8.9", "590.1"), {"onnxruntime-gpu": "1.31.1", "tensorrt": "10.15.1", "nvidia-cudnn-cu12": "9.12.0"}),
        (gpu("8.6", "590.1"), {"onnxruntime-gpu": "1.20.2"}),
        (gpu("3.5", "390.1"), {"onnxruntime-gpu": "1.31.1"}),
        (gpu("10.3", "590.1"), {"onnxruntime-gpu": "1.31.1"}),  # no target of ours uses it there
    ],
)
def test_sound_combinations(card, versions):
    assert gpu_problems([card], versions) == []


def test_verdicts():
    assert verdict(gpu()) == (
        "class sm61: runs artifacts of tensorrt with inference-pio[trt85], ort-cuda with inference-pio[cuda-sm61]"
    )
    assert verdict(gpu("9.0")).startswith("class sm90: runs artifacts of ort-cuda with inference-pio[cuda]")
    assert verdict(gpu("3.5")) == "no artifact runs on compute capability 3.5: use the CPU"


def test_every_dialect_has_an_extra():
    keys = {f"{target}/{dialect}" for p in profiles() if p.is_gpu for target, dialect in p.dialects}
    assert keys == set(EXTRAS)


@pytest.mark.parametrize(
    ("devices", "driver", "words"),
    [
        ([0x1C03], "590.44.01", "driver 590.44.01 ignores GPUs of compute capability 6.1: install R580"),
        ([0x1C03], None, "no driver: install R580, the last that serves this card"),
        ([0x2684], None, "no driver: install today's"),
        ([0x2684], "590.44.01", "driver 590.44.01 does not answer"),
        ([0x1C03], "580.95", "driver 580.95 does not answer"),
    ],
)
def test_a_gpu_that_no_driver_serves(devices, driver, words):
    (problem,) = unserved_problems(devices, driver)
    assert words in problem
    assert unserved_problems([], driver) == []


def test_doctor_tells_them(monkeypatch):
    monkeypatch.setattr(machine, "find_gpus", lambda: [gpu(driver="590.1")])
    facts = machine.diagnose()
    assert facts["gpus"][0]["verdict"].startswith("class sm61") and facts["gpus"][0]["free_memory"] == 5 << 30
    assert any("R580" in problem for problem in facts["problems"])
    monkeypatch.setattr(machine, "find_gpus", lambda: [])
    monkeypatch.setattr(machine, "nvidia_devices", lambda: [0x1C03])
    monkeypatch.setattr(machine, "loaded_driver", lambda: "590.1")
    assert any("ignores" in problem for problem in machine.diagnose()["problems"])


def test_cpu_hardware():
    assert machine.cpu_hardware("avx2") == "cpu-avx2" and machine.cpu_hardware("avx512-vnni") == "cpu-avx512-vnni"
    assert machine.cpu_hardware("aarch64") == "cpu"
