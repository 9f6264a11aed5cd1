"""The bundled checkpoints, one after another."""

from __future__ import annotations

import pytest
from tiny_cases import FAMILIES, Bundled


@pytest.fixture(scope="session", params=FAMILIES)
def bundled(request: pytest.FixtureRequest) -> Bundled:
    return Bundled(request.param)
