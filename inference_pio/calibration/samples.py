"""The samples of a calibration as layers read them: hidden states on disk, masks and positions, what images add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from inference_pio.calibration.layer_graphs import LayerGraph
from inference_pio.calibration.layer_runs import Runner, feed_of
from inference_pio.calibration.scenes import Scene
from inference_pio.calibration.tower import SceneFeatures
from inference_pio.calibration.workspace import Workspace
from inference_pio.graphs.weights import Rows


class Samples:
    """Samples of one length, each token ids (int64) or a scene; `size` is the decoder's width."""

    def __init__(
        self, samples: Sequence[np.ndarray | Scene], size: int, work: Workspace, features: SceneFeatures | None
    ) -> None:
        self._scenes = [sample if isinstance(sample, Scene) else None for sample in samples]
        self._ids = [sample.ids if isinstance(sample, Scene) else sample for sample in samples]
        self._size, self._work, self._features = size, work, features
        self.count, self.length = len(samples), len(self._ids[0])

    def write_embeddings(self, table: Rows) -> None:
        """What the first layer reads: rows of the token table, with features in the places of images."""
        writer = self._work.write_hidden(0)
        for ids, scene in zip(self._ids, self._scenes, strict=True):
            unique, inverse = np.unique(ids, return_inverse=True)
            rows_SC = np.concatenate([table.read(int(i), int(i) + 1) for i in unique])[inverse]
            writer.add(rows_SC if scene is None else self._put(scene, 0, rows_SC))
        writer.close()

    def hidden(self, layer: int) -> Iterator[np.ndarray]:
        """What layer `layer` reads, sample by sample: float32 [1, length, C]."""
        with self._work.hidden(layer, self._size) as states:
            for start in range(0, len(states), self.length):
                yield states[start : start + self.length][None]

    def feed(
        self,
        runner: Runner,
        layer: LayerGraph,
        number: int,
        hidden_1SC: np.ndarray,
        weights: Mapping[str, np.ndarray],
        experts_1SC: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """The inputs of one run of a layer for sample `number`; see `layer_runs.feed_of`."""
        scene, images_1SC = self._scenes[number], None
        if scene is not None and layer.addend is not None:
            images_1SC = self._put(scene, layer.index + 1, np.zeros_like(hidden_1SC[0]))[None]
        shared = runner.shared_values(self.length, None if scene is None else scene.positions)
        return feed_of(layer, hidden_1SC, shared, weights, experts_1SC, images_1SC)

    def _put(self, scene: Scene, kind: int, x_SC: np.ndarray) -> np.ndarray:
        assert self._features is not None  # only models that see have scenes
        return self._features.put(scene, kind, x_SC)
