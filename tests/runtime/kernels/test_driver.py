"""One GPU through the driver's interface: what it tells, its memory, and what happens when something is missing."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError
from inference_pio.runtime.kernels import DeviceArray, Driver, Limits
from inference_pio.runtime.kernels.nvrtc import Nvrtc
from inference_pio.runtime.kernels.plans import Launch
from inference_pio.runtime.kernels.sources import compile_program


def test_arrays_come_back_as_they_went(kernels):
    for values in (np.arange(12, dtype=np.float32).reshape(3, 4).T, np.array([-128, 127], np.int8)):
        with DeviceArray.of(kernels.driver, values) as array:
            np.testing.assert_array_equal(array.read(), values)
    array.free()  # a second time does nothing


def test_a_wrong_copy_is_refused(kernels):
    with DeviceArray(kernels.driver, (2, 2), np.float32) as array:
        for values in (np.zeros(4, np.float32), np.zeros((2, 2))):
            with pytest.raises(BadInputError, match="cannot take"):
                array.write(values)


def test_too_much_memory_is_refused_with_the_numbers(kernels):
    with pytest.raises(ResourceLimitError, match=r"MiB free and \d{7,} are needed"):
        DeviceArray(kernels.driver, (1 << 42,), np.int8)


def test_the_driver_says_what_went_wrong(kernels):
    with pytest.raises(InferencePioError, match=r"cuModuleGetFunction failed \(500\): named symbol not found"):
        compiler = Nvrtc()
        image = compile_program(compiler, "quantize", compiler.target(kernels.driver.limits.capability)).image
        kernels.driver.functions(image, ["no_such_kernel"])


def test_a_grid_of_nothing_never_reaches_the_gpu(kernels):
    with pytest.raises(BadInputError, match="at least one"):
        kernels.launch(Launch("quantize_tokens", (0, 1, 1), 512))


def test_the_emulated_gpu_tells_its_facts(emulated):
    assert emulated.limits == Limits("emulated GTX 1060", 61, 10, 1024, 192_192_000_000)


def test_the_emulated_gpu_finds_writes_outside_of_an_array(emulated):
    """Guards the tests of the kernels: they would pass over such a write otherwise."""
    array = DeviceArray(emulated, (4,), np.int8)
    emulated.call("cuMemcpyHtoD_v2", ctypes.c_uint64(array.address + 4), b"x", ctypes.c_size_t(1))
    with pytest.raises(InferencePioError, match="an access outside of an array"):
        array.free()


def test_without_a_driver_or_a_gpu(emulated, tmp_path: Path):
    with pytest.raises(BadInputError, match=r"no NVIDIA driver can be loaded .*: install one, or use the CPU"):
        Driver(library=str(tmp_path / "libcuda.so.1"))
    with pytest.raises(BadInputError, match="GPU 3 does not exist, this machine has 1"):
        Driver(3, library=emulated.library)
