"""The CUDA library's wrapper: values that come back, and what an error becomes."""

from __future__ import annotations

import sys

import fake_cuda
import pytest

from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError
from inference_pio.runtime.backends import cuda_library
from inference_pio.runtime.backends.cuda_library import ON_DEVICE, Cuda, open_cuda


@pytest.fixture
def runtime():
    return fake_cuda.FakeRuntime(memory=1 << 20, devices=2)


@pytest.fixture
def cuda(runtime):
    return Cuda(runtime, fake_cuda.FakeDriver(), 1)


def failing(runtime, name, code):
    setattr(runtime, name, fake_cuda.Function(lambda *arguments: code))


def test_the_device_is_described(cuda):
    assert (cuda.name, cuda.capability) == ("Fake GTX 1060", "6.1")
    assert cuda.free_and_total() == (1 << 20, 1 << 20)


def test_memory_is_taken_copied_and_given_back(cuda, runtime):
    first, second = cuda.allocate(64, "a"), cuda.allocate(64, "b")
    cuda.clear(first, 64, 0)
    cuda.copy(second, first, 64, ON_DEVICE, 0)
    assert bytes(runtime.held[second].raw) == bytes(64)
    cuda.free(first)
    cuda.free(second)
    assert runtime.used == 0


def test_too_much_is_refused_before_it_is_allocated(cuda, runtime):
    with pytest.raises(ResourceLimitError, match=r"the cache needs 3 MB of GPU memory and 2 MB are free"):
        cuda.allocate(3_000_000, "the cache")
    assert "cudaMalloc" not in runtime.calls


def test_what_was_recorded_runs_when_it_is_launched(cuda, runtime):
    done = []
    cuda.begin_capture(0)
    runtime.enqueue(lambda: done.append(1))
    graph = cuda.end_capture(0)
    assert not done
    cuda.launch(graph, 0)
    cuda.launch(graph, 0)
    assert done == [1, 1]
    cuda.destroy_graph(graph)
    assert not runtime.graphs


@pytest.mark.parametrize("device", [-1, 2])
def test_a_gpu_that_is_not_there_is_refused(runtime, device):
    with pytest.raises(BadInputError, match=f"no GPU {device}: this machine has 2"):
        Cuda(runtime, fake_cuda.FakeDriver(), device)


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (2, ResourceLimitError, "GPU memory ran out while running the model"),
        (35, BadInputError, "no GPU can be used here"),
        (100, BadInputError, "no GPU can be used here"),
        (700, InferencePioError, r"CUDA failed while running the model: fake error 700 \(error 700\)"),
    ],
)
def test_errors_say_what_was_done(cuda, runtime, code, kind, message):
    failing(runtime, "cudaStreamSynchronize", code)
    with pytest.raises(kind, match=message):
        cuda.synchronize(0)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("libcudart.so.11.0", "pip install nvidia-cuda-runtime-cu11"),
        ("libcuda.so.1", "install NVIDIA's driver"),
    ],
)
def test_missing_libraries_are_named(monkeypatch, missing, message):
    there = {"libcudart.so.11.0": fake_cuda.FakeRuntime(), "libcuda.so.1": fake_cuda.FakeDriver()}
    del there[missing]
    monkeypatch.setattr(cuda_library, "_library", there.get)
    with pytest.raises(BadInputError, match=message):
        open_cuda(11)


def test_packages_of_cuda_13_have_no_number_in_their_names(monkeypatch):
    monkeypatch.setattr(cuda_library, "_library", {}.get)
    with pytest.raises(BadInputError, match=r"pip install 'nvidia-cuda-runtime==13\.\*', or CUDA 13"):
        open_cuda(13)


def test_libraries_beside_the_interpreter_are_found(monkeypatch, tmp_path):
    place = tmp_path / "nvidia" / "cuda_runtime" / "lib" / "libx.so"
    place.parent.mkdir(parents=True)
    place.touch()
    opened = []

    def load(name):
        if name != str(place):
            raise OSError(name)
        opened.append(name)
        return "library"

    monkeypatch.setattr(cuda_library.ctypes, "CDLL", load)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert cuda_library._library("libx.so") == "library"
    assert cuda_library._library("liby.so") is None
    assert opened == [str(place)]


@pytest.mark.gpu
def test_a_real_gpu_answers():
    major = next((m for m, name in cuda_library.VERSIONS.items() if cuda_library._library(name) is not None), None)
    if major is None or cuda_library._library("libcuda.so.1") is None:
        pytest.skip("needs an NVIDIA GPU, its driver and the CUDA runtime")
    cuda = open_cuda(major)
    address = cuda.allocate(1 << 20, "a test")
    stream = cuda.stream()
    cuda.clear(address, 1 << 20, stream)
    cuda.synchronize(stream)
    cuda.free(address)
    cuda.destroy_stream(stream)
    assert cuda.name
