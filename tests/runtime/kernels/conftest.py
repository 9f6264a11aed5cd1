"""The kernels, on an emulated GPU and on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from kernel_cases import build_emulator

from inference_pio.errors import BadInputError
from inference_pio.runtime.kernels import Driver, Kernels


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A GPU that runs the kernels thread by thread on the host."""
    driver = Driver(library=str(build_emulator(tmp_path_factory.mktemp("emulator"))))
    yield driver
    driver.close()


@pytest.fixture(scope="session", params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernels]:
    """All kernels, loaded on the emulated GPU and on a real one where there is one."""
    cache = tmp_path_factory.mktemp("cache")
    if request.param == "emulated":
        yield Kernels(request.getfixturevalue("emulated"), cache)
        return
    try:
        driver = Driver()
    except BadInputError as error:
        pytest.skip(str(error))
    yield Kernels(driver, cache)
    driver.close()


@pytest.fixture
def freed() -> Iterator[ExitStack]:
    """Frees what tests put into it; the emulated GPU then tells of writes outside of an array."""
    with ExitStack() as stack:
        yield stack
