"""An artifact to damage, and how it is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine, EngineConfig

Refuse = Callable[..., str]


@pytest.fixture
def artifact(tiny_artifact: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the tiny artifact, which a test may change."""
    return Path(shutil.copytree(tiny_artifact("int8"), tmp_path / "artifact"))


@pytest.fixture
def refuse() -> Refuse:
    """`refuse(folder, words, **config)`: an engine refuses the artifact with an error that has these words."""

    def check(folder: Path, words: str, **config: object) -> str:
        with pytest.raises(BadInputError, match=words) as caught:
            Engine.open(folder, EngineConfig(**config)).close()  # type: ignore[arg-type]
        return str(caught.value)

    return check
