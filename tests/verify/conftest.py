"""Fixtures that tests of comparisons share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Many threads only wait for each other on models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def loose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gate for int4 on a text so short that chance alone moves its perplexity by several percent."""
    path = tmp_path_factory.mktemp("gates") / "loose.json"
    path.write_text(json.dumps({"absolute": {"kl_mean": 0.1, "top5_agreement": 0.9}, "clear_gap": 0.37}))
    return path
