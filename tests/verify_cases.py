"""How much the tests of a whole comparison compare, and engines that answer wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_pio.runtime import Engine

Make = Callable[[str], Path]
SMALL: dict[str, Any] = dict(window=64, positions=192, threads=1)


def damage(monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Let the engine answer with changed logits."""
    sound = Engine.stream_logits

    def stream_logits(self: Engine, token_ids: Any) -> Iterator[np.ndarray]:
        yield change(np.concatenate(list(sound(self, token_ids))))

    monkeypatch.setattr(Engine, "stream_logits", stream_logits)
