"""Every test starts where no artifact can be found by chance."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_pio.models.lookup import VARIABLE


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder, and no folder in the environment."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv(VARIABLE, raising=False)
    return folder
