"""The kernels, on an emulated GPU and on a real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernel_cases import open_driver

from inference_pio.runtime.kernels import Kernels


@pytest.fixture(scope="session", params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernels]:
    folder = tmp_path_factory.mktemp("kernels")
    for driver in open_driver(request.param, folder):
        yield Kernels(driver, folder)
