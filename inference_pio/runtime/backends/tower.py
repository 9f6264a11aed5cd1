"""What runs a vision tower, and its form on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from inference_pio.artifact.manifest import GraphFacts
from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.runtime.backends.device_memory import DeviceMemory
from inference_pio.runtime.backends.ort_session import (
    arena_of,
    first_line,
    import_onnxruntime,
    open_session,
    ort_errors,
)

PIXELS = "pixel_values"
"""The input of patches, float32 [images, patches, patch values]; all others are the same for all images of a run."""


class Tower(Protocol):
    """A vision tower that is loaded. Not thread-safe."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of the graph in its order, float32 [images, tokens, C] each; `inputs` have its names and types.

        Raises ResourceLimitError for images larger than it takes.
        """

    def close(self) -> None:
        """Release weights and buffers; closing twice is fine."""


class OrtTower:
    """A tower in a session of ONNX Runtime, on the CPU or on the GPU that `memory` is of."""

    def __init__(self, folder: Path, graph: GraphFacts, threads: int, memory: DeviceMemory | None = None) -> None:
        """Raises BadInputError for a file that cannot be loaded or has other inputs than the manifest says."""
        self._session: Any = open_session(folder / graph.file, threads, memory)
        self._outputs = [value.name for value in graph.outputs]
        if {value.name for value in self._session.get_inputs()} != {value.name for value in graph.inputs}:
            raise BadInputError(
                f"{folder / graph.file} has other inputs than its manifest says: copy or export the artifact again"
            )
        self._ort = import_onnxruntime()
        self._options = self._ort.RunOptions()  # a large image's activations must not stay
        self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena_of(memory))

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            found: list[np.ndarray] = self._session.run(self._outputs, dict(inputs), self._options)
        except ort_errors(self._ort) as error:
            raise InferencePioError(f"ONNX Runtime failed on an image: {first_line(error)}") from None
        return found

    def close(self) -> None:
        self._session = None
