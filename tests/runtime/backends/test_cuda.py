"""What can be missing for a GPU, with the library at the boundary made up."""

from __future__ import annotations

import ctypes
import re
from types import SimpleNamespace

import fake_cuda
import numpy as np
import pytest

from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.machine.gpus import Gpu
from inference_pio.runtime import device
from inference_pio.runtime.backends import cuda, cuda_library
from inference_pio.runtime.backends.cuda import check_started, check_wheel, cuda_provider
from inference_pio.runtime.backends.cuda_library import Cuda
from inference_pio.runtime.backends.device_memory import CudaMemory, DeviceBuffer


def wheel(version: str, *providers: str) -> SimpleNamespace:
    names = providers or (cuda.CUDA_PROVIDER, cuda.CPU_PROVIDER)
    return SimpleNamespace(__version__=version, get_available_providers=lambda: list(names))


def gpu(capability: str) -> Gpu:
    return Gpu("Card", capability, 6 << 30, 5 << 30, "580.1")


@pytest.mark.parametrize(
    ("version", "capability"),
    [("1.20.2", "6.1"), ("1.26.0", "6.1"), ("1.31.1", "8.6"), ("1.31.1", "7.5"), ("1.27.0", "10.3"), ("1.15.0", "8.6")],
)
def test_wheels_with_code_for_the_card(version, capability):
    check_wheel(wheel(version), [gpu(capability)], 0)


@pytest.mark.parametrize(
    ("version", "capability", "mend"),
    [
        ("1.27.0", "6.1", r"'inference-pio\[cuda-sm61\]' \(1.20.2 has\)"),
        ("1.31.1", "7.0", "'onnxruntime-gpu==1.26.0'"),
        ("1.22.0", "5.2", "cuda-sm61"),
        ("1.31.1", "10.0", "'onnxruntime-gpu==1.27.0'"),
        ("1.31.1", "3.5", "no version has; choose device 'cpu'"),
    ],
)
def test_wheels_without(version, capability, mend):
    with pytest.raises(BadInputError, match=rf"onnxruntime-gpu {version} has no code for Card .*{mend}"):
        check_wheel(wheel(version), [gpu(capability)], 0)


def test_no_provider_and_no_such_gpu():
    with pytest.raises(BadInputError, match="no CUDA provider"):
        check_wheel(wheel("1.31.1", cuda.CPU_PROVIDER), [], 0)
    with pytest.raises(BadInputError, match="there is no GPU 2: this machine has 1"):
        check_wheel(wheel("1.31.1"), [gpu("8.6")], 2)
    check_wheel(wheel("1.31.1"), [], 0)  # the driver's tool may be missing


def test_a_provider_that_fell_back_to_the_cpu():
    check_started(SimpleNamespace(get_providers=lambda: [cuda.CUDA_PROVIDER, cuda.CPU_PROVIDER]))
    with pytest.raises(BadInputError, match="cannot start"):
        check_started(SimpleNamespace(get_providers=lambda: [cuda.CPU_PROVIDER]))


def test_options_of_the_provider():
    name, options = cuda_provider(1)
    assert name == cuda.CUDA_PROVIDER and (options["device_id"], options["use_tf32"]) == ("1", "0")


@pytest.fixture
def runtime() -> fake_cuda.FakeRuntime:
    return fake_cuda.FakeRuntime(memory=1 << 20, devices=2)


@pytest.fixture
def gpu_memory(runtime) -> CudaMemory:
    return CudaMemory(Cuda(runtime, fake_cuda.FakeDriver(), 1))


def test_rows_are_copied_by_address(gpu_memory, runtime):
    library = Cuda(runtime, fake_cuda.FakeDriver(), 1)
    to, source = library.allocate(160, "a test"), library.allocate(96, "a test")
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    ctypes.memmove(source, values.ctypes.data, 96)
    gpu_memory.zero(to, 160)
    gpu_memory.copy_rows(to + 16, 80, source + 16, 48, 32, 2)
    found = np.frombuffer(bytes(runtime.held[to].raw), np.float32).reshape(2, 5, 4)
    assert np.array_equal(found[:, 1:3], values[:, 1:]) and not found[:, 3:].any() and not found[:, 0].any()
    assert (gpu_memory.kind, gpu_memory.index, gpu_memory.free_bytes()) == ("cuda", 1, (1 << 20) - 256)
    assert runtime.calls["cudaDeviceSynchronize"] == 2
    before = dict(runtime.calls)
    gpu_memory.copy_rows(0, 0, 0, 0, 0, 4)
    assert runtime.calls == before


def test_a_buffer_is_zeros_and_goes_back(gpu_memory, runtime):
    buffer = DeviceBuffer(gpu_memory, 96, "a test")
    assert bytes(runtime.held[buffer.address].raw) == bytes(96)
    with pytest.raises(ResourceLimitError, match=r"a test needs .* of GPU memory"):
        DeviceBuffer(gpu_memory, 1 << 21, "a test")
    del buffer
    assert not runtime.held


def test_the_device_is_that_of_the_calling_thread(gpu_memory, runtime):
    taken = []
    runtime.cudaSetDevice = fake_cuda.Function(lambda device: taken.append(device) or 0)
    to = Cuda(runtime, fake_cuda.FakeDriver(), 1).allocate(8, "a test")
    taken.clear()
    gpu_memory.zero(to, 8)
    gpu_memory.copy_rows(to, 4, to, 4, 4, 2)
    gpu_memory.free_bytes()
    assert taken == [1, 1, 1]


@pytest.mark.parametrize(
    ("version", "library"),
    [("1.20.2", "libcudart.so.12"), ("1.31.1", "libcudart.so.13"), ("1.18.1", "libcudart.so.11.0")],
)
def test_the_cuda_runtime_is_the_one_that_the_wheel_uses(monkeypatch, runtime, version, library):
    libraries = {library: runtime, "libcuda.so.1": fake_cuda.FakeDriver()}
    monkeypatch.setattr(cuda_library, "_library", libraries.get)
    monkeypatch.setattr(device, "import_onnxruntime", lambda: wheel(version))
    monkeypatch.setattr(device, "find_gpus", lambda: [gpu("8.0"), gpu("8.0")])
    monkeypatch.setattr(device, "load_libraries", lambda: None)
    assert device.open_gpu(1).index == 1
    del libraries[library]
    with pytest.raises(BadInputError, match=f"{re.escape(library)} cannot be found"):
        device.open_gpu(1)
