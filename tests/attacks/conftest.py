"""An artifact and a checkpoint to damage, and how they are refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_pio.cli.main import run
from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine, EngineConfig

sys.path.insert(0, str(Path(__file__).parents[1]))
from checkpoint_cases import write_sound

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


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint that exports."""
    return write_sound(tmp_path_factory.mktemp("sound") / "checkpoint")


@pytest.fixture
def checkpoint(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, which a test may change."""
    return Path(shutil.copytree(sound, tmp_path / "checkpoint"))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Export and expect a refusal; the words behind `error:`."""

    def check(checkpoint: Path | str, *options: str, code: int = 2) -> str:
        (tmp_path / "place").mkdir(exist_ok=True)
        capsys.readouterr()
        found = run(["export", str(checkpoint), "-o", str(tmp_path / "place" / "out"), *options])
        out, err = capsys.readouterr()
        assert found == code, err
        assert out == ""
        *before, last = err.splitlines()
        assert last.startswith("error: ")
        assert all(line.startswith("expected: ") for line in before), err
        assert last.isprintable() and len(last) < 1000
        assert list((tmp_path / "place").iterdir()) == []
        return last.removeprefix("error: ")

    return check
