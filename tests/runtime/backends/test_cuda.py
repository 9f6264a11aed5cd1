"""What can be missing for a GPU, with the library at the boundary made up."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.machine.gpus import Gpu
from inference_pio.runtime.backends import cuda
from inference_pio.runtime.backends.cuda import check_started, check_wheel, cuda_provider
from inference_pio.runtime.backends.device_memory import CudaMemory, load_cuda_runtime


def wheel(version: str, *providers: str) -> SimpleNamespace:
    names = providers or (cuda.CUDA_PROVIDER, cuda.CPU_PROVIDER)
    return SimpleNamespace(__version__=version, get_available_providers=lambda: list(names))


def gpu(capability: str) -> Gpu:
    return Gpu("Card", capability, 6 << 30, 5 << 30, "580.1")


@pytest.mark.parametrize(
    ("version", "capability"), [("1.20.2", "6.1"), ("1.26.0", "6.1"), ("1.31.1", "8.6"), ("1.31.1", "7.5")]
)
def test_wheels_with_code_for_the_card(version, capability):
    check_wheel(wheel(version), [gpu(capability)], 0)


@pytest.mark.parametrize(
    ("version", "capability", "extra"),
    [
        ("1.27.0", "6.1", "cuda-sm61"),
        ("1.31.1", "7.0", "onnxruntime-gpu<1.27"),
        ("1.22.0", "5.2", r"inference-pio\[cuda\]"),
    ],
)
def test_wheels_without(version, capability, extra):
    with pytest.raises(BadInputError, match=rf"onnxruntime-gpu {version} has no code for Card .*{extra}"):
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


class FakeRuntime:
    """The CUDA runtime over host memory; notes the calls, and fails where it is told to."""

    def __init__(self, broken: str = "") -> None:
        self.calls: list[str] = []
        self.broken = broken

    def __getattr__(self, name: str):
        def call(*arguments):
            self.calls.append(name)
            if name == self.broken:
                return 2
            if name == "cudaMemGetInfo":
                arguments[0]._obj.value, arguments[1]._obj.value = 5 << 30, 6 << 30
            if name == "cudaMemset":
                ctypes.memset(arguments[0].value, arguments[1].value, arguments[2].value)
            if name == "cudaMemcpy2D":
                to, to_pitch, source, pitch, width, rows, kind = (argument.value for argument in arguments)
                assert kind == 4
                for row in range(rows):
                    ctypes.memmove(to + row * to_pitch, source + row * pitch, width)
            return 0

        return call


def test_rows_are_copied_by_address():
    library = FakeRuntime()
    memory = CudaMemory(1, library)
    source, to = np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.ones((2, 5, 4), np.float32)
    memory.zero(to.ctypes.data, to.nbytes)
    memory.copy_rows(to.ctypes.data + 16, 80, source.ctypes.data + 16, 48, 32, 2)
    assert np.array_equal(to[:, 1:3], source[:, 1:]) and not to[:, 3:].any() and not to[:, 0].any()
    assert memory.free_bytes() == 5 << 30
    assert library.calls[0] == "cudaSetDevice" and library.calls.count("cudaDeviceSynchronize") == 2
    before = list(library.calls)
    memory.copy_rows(0, 0, 0, 0, 0, 4)
    assert library.calls == before


def test_a_failing_runtime_is_named():
    memory = CudaMemory(0, FakeRuntime(broken="cudaMemset"))
    with pytest.raises(InferencePioError, match="failed in cudaMemset with status 2"):
        memory.zero(0, 4)


def test_a_missing_runtime(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(BadInputError, match=r"the CUDA runtime \(libcudart.so.13 or older\) cannot be loaded"):
        load_cuda_runtime()
