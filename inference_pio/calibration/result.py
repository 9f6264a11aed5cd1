"""A finished calibration: a folder with `calibration.json` and one safetensors file per layer.

Arrays of a layer's file: `T.codes` and `T.scales` (a linear weight T, rounded), `T.exact_columns` and
`T.exact_weights`, `T.activation_scale`; the last alone for a part of a tensor, `T[part]`, that is multiplied by head;
`T` alone (float32, a tensor that took in smoothing); `cache.N.key` and `cache.N.value` (float32 [kv_heads, head_dim],
steps of layer N's int8 cache). The last layer's file may hold `head.activation_scale`, the step of a static head's
input.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from inference_pio.artifact.hashing import hash_file
from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.calibration.checks import check_arrays, check_facts, finite
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.checkpoint.safetensors import TensorReader
from inference_pio.checkpoint.safetensors_header import TensorInfo, read_header
from inference_pio.errors import BadInputError
from inference_pio.graphs.calibrated import CalibratedLinear
from inference_pio.graphs.kv_scales import KvScales

FACTS, LAYERS = "calibration.json", "layers"
HEAD = "head"
"""What the step of a static head's input is called by, since a tied head has no tensor."""
TOWER_FILE = "vision.safetensors"
"""Among the layers' files: `T.activation_scale` of the vision tower, where the recipe has static scales."""
VERSION = 3


class Calibration:
    """A calibration on disk; arrays are read when they are asked for. Close it after use.

    `calibration.json` holds the hashes of the other files, which `check_source` compares.
    """

    def __init__(self, folder: Path) -> None:
        """Raises BadInputError for a folder that is no complete calibration of this version."""
        self.folder = folder
        if not (folder / FACTS).is_file():
            raise BadInputError(f"{folder} is no finished calibration (it has no {FACTS}): run inference-pio calibrate")
        self.facts: dict[str, Any] = read_json_object(folder / FACTS)
        if self.facts.get("version") != VERSION:
            raise BadInputError(f"{folder} is a calibration of another version: run inference-pio calibrate again")
        check_facts(self.facts, folder / FACTS)
        self._reader = TensorReader()

    @property
    def recipe(self) -> str:
        """The recipe that it was made for."""
        return str(self.facts["recipe"])

    @property
    def exceptions(self) -> tuple[str, ...]:
        """Tensors kept in float32 although the recipe rounds them."""
        return tuple(self.facts["exceptions"])

    def check_source(self, checkpoint: Checkpoint, layers: int) -> None:
        """Raise BadInputError unless it was made from this checkpoint, is whole, and has at least so many layers."""
        if self.facts["source"] != identity(checkpoint):
            raise BadInputError(
                f"{self.folder} was made from another checkpoint than {checkpoint.path}: calibrate this one"
            )
        if self.facts["layers"] < layers:
            raise BadInputError(
                f"{self.folder} holds {self.facts['layers']} layers, {layers} are asked for: calibrate again"
            )
        check_arrays(self._arrays, self.facts["linears"], checkpoint.tensors)
        for name in self._files:
            if hash_file(self.folder / LAYERS / name).sha256 != self.facts["files"].get(name):
                raise BadInputError(f"{self.folder / LAYERS / name} is not what was written: calibrate again")

    def linear(self, tensor: str) -> CalibratedLinear | None:
        """The calibrated weight called `tensor`; see `graphs.calibrated`."""
        codes, scales = self._arrays.get(f"{tensor}.codes"), self._arrays.get(f"{tensor}.scales")
        if codes is None or scales is None:
            return None
        columns = self._array(f"{tensor}.exact_columns")
        if columns is not None and not (len(columns) == 0 or 0 <= columns.min() <= columns.max() < codes.shape[1]):
            raise BadInputError(f"the exact columns of '{tensor}' lie outside it: calibrate again")
        return CalibratedLinear(
            read=lambda start, stop: (
                self._reader.read_stored(codes, start, stop),
                finite(scales, self._reader.read_rows(scales, start, stop)),
            ),
            activation_scale=self.activation_scale(tensor),
            exact_columns=() if columns is None else tuple(int(i) for i in columns),
            exact=self._array(f"{tensor}.exact_weights"),
        )

    def activation_scale(self, tensor: str) -> float | None:
        """The static step of the input of the linear layer `tensor`, of the vision tower too; None without one."""
        step = self._array(f"{tensor}.activation_scale")
        if step is not None and not (step.shape == (1,) and step[0] > 0):
            raise BadInputError(f"the activation scale of '{tensor}' is no positive number: calibrate again")
        return None if step is None else float(step[0])

    @property
    def shows_images(self) -> bool:
        """Whether it was made on images as well."""
        return bool(self.facts.get("images"))

    def replaced(self, tensor: str) -> TensorInfo | None:
        """Where the new float32 values of a tensor stand, None for one that did not change."""
        return self._arrays.get(tensor)

    def read_replaced(self, tensor: str, start: int, stop: int) -> np.ndarray:
        """Rows of a tensor that `replaced` knows."""
        return self._reader.read_rows(self._arrays[tensor], start, stop)

    def kv_scales(self, layers: int) -> Mapping[int, KvScales]:
        """The steps of an int8 cache by layer; raises BadInputError when they were not collected."""
        found = {}
        for layer in range(layers):
            key, value = self._array(f"cache.{layer}.key"), self._array(f"cache.{layer}.value")
            if key is None or value is None:
                raise BadInputError(f"{self.folder} has no cache scales for layer {layer}: calibrate again")
            found[layer] = KvScales(key, value)
        return found

    def head_step(self, layers: int) -> float:
        """The step of the head's input behind so many layers; raises BadInputError when it was not measured."""
        step = self.activation_scale(HEAD)
        if step is None or layers != self.facts["layers"]:
            raise BadInputError(
                f"{self.folder} has no activation scale for the head behind {layers} layers: calibrate again, with "
                "this recipe, target and number of layers"
            )
        return step

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def __enter__(self) -> Calibration:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @cached_property
    def _arrays(self) -> dict[str, TensorInfo]:
        arrays: dict[str, TensorInfo] = {}
        for name in self._files:
            arrays |= read_header(self.folder / LAYERS / name)
        return arrays

    @property
    def _files(self) -> list[str]:
        """The files of all layers, and that of the vision tower where there is one."""
        tower = [TOWER_FILE] if TOWER_FILE in self.facts["files"] else []
        return [*(layer_file(layer) for layer in range(int(self.facts["layers"]))), *tower]

    def _array(self, name: str) -> np.ndarray | None:
        info = self._arrays.get(name)
        if info is None:
            return None
        return finite(info, self._reader.read_stored(info, 0, info.shape[0] if info.shape else 0))


def layer_file(layer: int) -> str:
    """The name of a layer's file."""
    return f"{layer:05d}.safetensors"


def is_result_of(folder: Path, key: Mapping[str, Any]) -> bool:
    """Whether `folder` is a finished calibration with these `version`, `source`, `text` (hash), `rules`, `options`."""
    try:
        facts = Calibration(folder).facts
    except BadInputError:
        return False
    return {**{name: facts.get(name) for name in key}, "text": facts["text"]["sha256"]} == key


def identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """What tells one checkpoint from another: hashes of its small files, and of every weight file."""
    return {name: entry["sha256"] for name, entry in checkpoint.file_hashes().items()}
