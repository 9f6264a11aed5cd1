"""The kernels of one GPU: compiled for it, loaded, and launched on the arrays of its memory."""

from __future__ import annotations

import ctypes
from pathlib import Path

from inference_pio.runtime.kernels import plans, sources
from inference_pio.runtime.kernels.driver import DeviceArray, Driver

Argument = DeviceArray | int | float | None


class Kernels:
    """All kernels, ready to run in the order of the calls; threads may share it.

    Raises BadInputError without a driver, a GPU of compute capability 6.1 or newer, or NVRTC.
    """

    def __init__(self, driver: Driver, cache_dir: Path) -> None:
        self.driver = driver
        images = sources.images(driver.limits.capability, cache_dir)
        self._functions: dict[str, ctypes.c_void_p] = {}
        for program, names in plans.names().items():
            self._functions |= driver.functions(images[program], names)

    def launch(self, plan: plans.Launch, *arguments: Argument) -> None:
        """Launch a kernel; arguments are arrays (None is a null pointer), int32 and float32, as its source has them."""
        plan.check(self.driver.limits)
        values = [_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self.driver.enter()
        self.driver.call(
            "cuLaunchKernel", self._functions[plan.kernel], *plan.grid, plan.block, 1, 1, 0, None, pointers, None
        )


def _value(argument: Argument) -> ctypes.c_uint64 | ctypes.c_int32 | ctypes.c_float:
    if argument is None or isinstance(argument, DeviceArray):
        return ctypes.c_uint64(argument.address if argument else 0)
    return ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_int32(argument)
