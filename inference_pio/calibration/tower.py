"""The vision tower over the pictures of a calibration, block by block: features for the decoder, steps for its inputs.

In memory are one block's weights and the activations of one picture; hidden states of all pictures lie on disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from inference_pio.calibration.choices import TapChoice, choose_step
from inference_pio.calibration.layer_graphs import LayerGraph, Layers, layer_of
from inference_pio.calibration.layer_runs import Runner, feed_of
from inference_pio.calibration.observers import ObserverKind
from inference_pio.calibration.options import Progress
from inference_pio.calibration.products import dequantized, relative_error, round_weight, rounded_input
from inference_pio.calibration.scenes import Picture, Scene
from inference_pio.calibration.statistics import TapStatistics
from inference_pio.calibration.taps import find_taps
from inference_pio.calibration.workspace import Workspace
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import W8A8_STATIC
from inference_pio.graphs.spec import VisionSpec
from inference_pio.graphs.weights import recipe_of, stored_rows
from inference_pio.runtime.vision.grid import patch_positions, position_taps

PATCHES, FEATURES = "patches.{}", "features.{}"
"""In the workspace: hidden states before a block, and features of the decoder's input and of each DeepStack layer."""


class Tower:
    """Runs the canonical graph of a vision tower over `pictures`, part by part."""

    def __init__(
        self, model: ir.Model, vision: VisionSpec, pictures: Sequence[Picture], work: Workspace, threads: int
    ) -> None:
        self._vision, self._pictures, self._work = vision, pictures, work
        self._parts, self._embedded, self._before = _cut(model)
        blocks = [part for part in self._parts if part.index >= 0]
        self._angles = blocks[0].shared
        layers = Layers(tuple(blocks), self._angles, self._weights_before()[0], tuple(self._before))
        self._runner = Runner(layers, model.opset_imports, threads)
        self._turns = self._runner.prelude(self._angles, [])

    def run(
        self, kind: ObserverKind | None, watched: bool, report: Progress
    ) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        """Leave the features on disk; where `watched`, find one step for the input of every linear layer.

        Returns `T.activation_scale` arrays and, for the report, the error of each product with that step. Raises
        BadInputError when a part's result is not finite.
        """
        self._embed()
        arrays: dict[str, np.ndarray] = {}
        facts: list[dict[str, Any]] = []
        before = features = 0
        for number, part in enumerate(self._parts):
            report("images", number, len(self._parts))
            weights = {str(value.name): stored_rows(value).whole() for value in part.weights}
            source, result = PATCHES.format(before), PATCHES.format(part.index + 1)
            if part.index < 0:  # a merger; the last one's features stand in the tokens' places
                features = 0 if part is self._parts[-1] else features + 1
                result = FEATURES.format(features)
            for stats in self._run_part(part, weights, source, result, watched):
                found, said = _step(stats, weights, kind)
                arrays |= found
                facts += said
            if part.index >= 0:
                self._work.drop_hidden(source)
                before = part.index + 1
        self._work.drop_hidden(PATCHES.format(before))
        report("images", len(self._parts), len(self._parts))
        return arrays, facts

    def _embed(self) -> None:
        weights = {str(v.name): stored_rows(v).whole() for v in self._weights_before()}
        prelude = self._runner.prelude([self._embedded], list(weights))
        writer = self._work.write_hidden(PATCHES.format(0))
        for picture in self._pictures:
            known = {**self._places(picture), "pixel_values": picture.read().values, **weights}
            (embedded_IPC,) = prelude.run(known).values()
            writer.add(embedded_IPC.reshape(-1, embedded_IPC.shape[-1]))
        writer.close()

    def _weights_before(self) -> list[ir.Value]:
        values = (v for node in self._before for v in node.inputs)
        return list(dict.fromkeys(v for v in values if v is not None and recipe_of(v) is not None))

    def _run_part(
        self, part: LayerGraph, weights: Mapping[str, np.ndarray], source: str, result: str, watched: bool
    ) -> list[TapStatistics]:
        taps = find_taps(part) if watched else []
        statistics = [TapStatistics(tap, len(self._pictures), gram=False) for tap in taps]
        session = self._runner.session(part, [tap.value for tap in taps])
        writer = self._work.write_hidden(result)
        for picture, hidden_IPC in zip(self._pictures, self._hidden(source), strict=True):
            shared = self._shared(picture) if part.shared else {}
            output, *found = session.run(None, feed_of(part, hidden_IPC, shared, weights))
            if not np.isfinite(output).all():
                raise BadInputError(
                    f"the vision tower gives activations that are NaN or infinite ({next(iter(weights))}): check the "
                    "checkpoint and the images"
                )
            for stats, x_IPK in zip(statistics, found, strict=True):
                stats.update(x_IPK.reshape(-1, x_IPK.shape[-1]))
            writer.add(output.reshape(-1, output.shape[-1]))
        writer.close()
        return statistics

    def _shared(self, picture: Picture) -> dict[str, np.ndarray]:
        frames = picture.grid.frames
        return self._turns.run({**self._places(picture), "pixel_values": np.zeros((frames, 1, 1), np.float32)})

    def _places(self, picture: Picture) -> dict[str, np.ndarray]:
        grid, merge = picture.grid, self._vision.merge_size
        indices, weights = position_taps(grid.height, grid.width, merge, self._vision.position_side)
        places = patch_positions(grid.height, grid.width, merge)
        return {"position_indices": indices, "position_weights": weights, "patch_positions": places}

    def _hidden(self, name: str) -> Iterator[np.ndarray]:
        start = 0
        with self._work.hidden(name, self._vision.hidden_size) as states:
            for picture in self._pictures:
                stop = start + picture.grid.frames * picture.grid.frame_patches
                yield states[start:stop].reshape(picture.grid.frames, picture.grid.frame_patches, -1)
                start = stop


class SceneFeatures:
    """The features of pictures on disk, as the tokens of a scene need them; `size` is the decoder's width."""

    def __init__(self, pictures: Sequence[Picture], merge: int, size: int, work: Workspace) -> None:
        self._work, self._size = work, size
        counts = [picture.grid.frames * picture.grid.frame_tokens(merge) for picture in pictures]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(int).tolist()
        self._starts = {picture.digest: start for picture, start in zip(pictures, starts, strict=False)}

    def put(self, scene: Scene, kind: int, x_SC: np.ndarray) -> np.ndarray:
        """`x_SC` with features in the places of images: kind 0 is what stands for tokens, n DeepStack's n-th."""
        with self._work.hidden(FEATURES.format(kind), self._size) as states:
            for place in scene.places:
                first = self._starts[place.picture.digest] + place.first
                x_SC[place.start : place.start + place.count] = states[first : first + place.count]
        return x_SC


def _cut(model: ir.Model) -> tuple[list[LayerGraph], ir.Value, list[ir.Node]]:
    """Blocks (index 0 and up) and mergers (-1) in their order, the embedded patches, and the nodes before them."""
    groups: dict[str, list[ir.Node]] = {}
    before = []
    for node in model.graph:
        found = re.match(r"blocks\.\d+/|deepstack\.\d+/|merger/", str(node.name))
        if found:
            groups.setdefault(found[0], []).append(node)
        else:
            before.append(node)
    hidden = embedded = before[-1].outputs[0]
    parts = []
    for name, nodes in groups.items():
        if name.startswith("blocks."):
            part = layer_of(int(name[7:-1]), nodes, hidden, nodes[-1].outputs[0])
            hidden = part.output
        else:
            part = layer_of(-1, nodes, hidden, nodes[-1].outputs[0])
        parts.append(part)
    return parts, embedded, before


def _step(
    stats: TapStatistics, weights: Mapping[str, np.ndarray], kind: ObserverKind | None
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """The step of a tap's input, and what products of rounded inputs and weights lose by it."""
    rows_TK = stats.rows()
    pairs = [(weights[name], W8A8_STATIC) for name in stats.tap.linears]
    choice = choose_step(TapChoice.plain(stats.tap), stats.observer, kind, rows_TK, pairs)
    seen_TK = rounded_input(rows_TK, choice.input, W8A8_STATIC)
    arrays, facts = {}, []
    for name in stats.tap.linears:
        found_NK = dequantized(*round_weight(weights[name], W8A8_STATIC, False, None), W8A8_STATIC, stats.tap.columns)
        error = relative_error(rows_TK @ weights[name].T, seen_TK @ found_NK.T)
        arrays[f"{name}.activation_scale"] = np.array([choice.step], np.float32)
        facts.append({"tensor": name, "error": error, "observer": choice.observer})
    return arrays, facts
