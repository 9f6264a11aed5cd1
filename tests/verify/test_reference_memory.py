"""The streamed reference reads every tensor once and holds one layer, or one expert, at a time."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from inference_pio.checkpoint.checkpoint import Checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from reference_cases import SpyingWeights, make_windows, streamed
from shapes import write_shape

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["untied", "moe_all_experts"])
def test_every_tensor_is_read_once_whatever_the_number_of_windows(name: str, tmp_path: Path) -> None:
    path = write_shape(name, tmp_path / "checkpoint")
    with Checkpoint.open(path) as checkpoint:
        spy = SpyingWeights(checkpoint, None)
        streamed(path, make_windows(2048, (3,) * 5), spy)
        expected = {name: info.shape[0] for name, info in checkpoint.tensors.items()}
    del expected["model.embed_tokens.weight"]
    assert spy.read == expected


class OneLayerAtATime(SpyingWeights):
    """Looks, whenever rows are read, at how many decoder layers hold weights."""

    most = 0

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        layers = [found for found in gc.get_objects() if type(found).__name__ == "Qwen3DecoderLayer"]
        loaded = [layer for layer in layers if any(not p.is_meta for p in layer.parameters())]
        self.most = max(self.most, len(loaded))
        return super().rows(name, start, stop)


def test_a_layer_gives_its_memory_back_before_the_next_is_loaded(tmp_path: Path) -> None:
    path = write_shape("plain", tmp_path / "checkpoint")
    gc.collect()
    with Checkpoint.open(path) as checkpoint:
        watch = OneLayerAtATime(checkpoint, None)
        streamed(path, make_windows(2048, (3,)), watch)
    assert watch.most == 0  # a layer counts as loaded only after all of its tensors were read


class OneExpertAtATime(SpyingWeights):
    """Looks, whenever an expert's rows are read, at how many arrays of its size were handed out and are alive."""

    most = 0

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint, None)
        self.alive: list[weakref.ref[np.ndarray]] = []

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        rows = super().rows(name, start, stop)
        if ".experts." in name:
            self.alive = [found for found in self.alive if found() is not None] + [weakref.ref(rows)]
            self.most = max(self.most, len(self.alive))
        return rows


def test_an_expert_gives_its_memory_back_before_the_next_is_loaded(tmp_path: Path) -> None:
    path = write_shape("moe", tmp_path / "checkpoint")
    with Checkpoint.open(path) as checkpoint:
        watch = OneExpertAtATime(checkpoint)
        streamed(path, make_windows(2048, (30,)), watch)
    assert len([name for name in watch.read if ".experts." in name]) > 30
    assert watch.most <= 2
