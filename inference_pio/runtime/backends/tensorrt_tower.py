"""A vision tower as a TensorRT engine, beside the blocks of its model.

Images, or frames of a video, run one after the other, so that memory follows from the largest image alone. What the
engine makes goes to the host, where features are kept by content.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inference_pio.artifact.manifest import GraphFacts
from inference_pio.errors import ResourceLimitError
from inference_pio.runtime.backends.cuda_library import TO_HOST
from inference_pio.runtime.backends.device_caches import DeviceBuffers
from inference_pio.runtime.backends.tensorrt_engines import TensorRTEngines
from inference_pio.runtime.backends.tower import PIXELS


class TensorRTTower:
    """An execution context, and buffers for its inputs and outputs."""

    def __init__(self, shared: TensorRTEngines, graph: GraphFacts, patches_per_token: int) -> None:
        """Raises as `TensorRTEngines` does, ResourceLimitError too when the GPU has no room for activations."""
        shared.check_open()
        shared.cuda.use()
        self._shared, self._graph, self._group = shared, graph, patches_per_token
        self._buffers = DeviceBuffers(shared.cuda)
        engine = shared.load(graph, profiles=1)
        self._most: int = engine.get_tensor_profile_shape(PIXELS, 0)[2][1]
        try:
            shared.reserve([engine])
        except ResourceLimitError as error:
            raise ResourceLimitError(
                f"images of up to {self._tokens(self._most)} tokens, for which the engine of {graph.file} was built, "
                f"do not fit ({error}); or build it with a smaller --max-image-tokens"
            ) from None
        self._context: Any = shared.context(engine, 0)

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        shared, context = self._shared, self._context
        images, patches = inputs[PIXELS].shape[:2]
        self._check_size(patches)
        shared.check_open()
        shared.cuda.use()
        for name, array in inputs.items():
            one = array[:1] if name == PIXELS else array
            shared.bind(context, name, one.shape, self._buffers.address(name, one.nbytes))
            if name != PIXELS:
                self._buffers.send(name, one, shared.stream)
        shapes = [(images, self._tokens(patches), int(value.shape[-1])) for value in self._graph.outputs]
        found = {v.name: np.empty(shape, np.float32) for v, shape in zip(self._graph.outputs, shapes, strict=True)}
        for name, array in found.items():
            context.set_tensor_address(name, self._buffers.address(name, array[0].nbytes))
        for index in range(images):
            self._buffers.send(PIXELS, inputs[PIXELS][index : index + 1], shared.stream)
            shared.enqueue(context, self._graph.file)
            for name, array in found.items():
                target, size = array[index].ctypes.data, array[index].nbytes
                shared.cuda.copy(target, self._buffers.address(name), size, TO_HOST, shared.stream)
        shared.cuda.synchronize(shared.stream)
        return list(found.values())

    def close(self) -> None:
        self._shared.cuda.use()
        self._shared.drop(self._context)
        self._context = None
        self._buffers.release()

    def _tokens(self, patches: int) -> int:
        return -(-patches // self._group)

    def _check_size(self, patches: int) -> None:
        if patches > self._most:
            most, tokens = self._tokens(self._most), self._tokens(patches)
            raise ResourceLimitError(
                f"an image has {tokens} tokens and the engine of {self._graph.file} takes {most}: open the artifact "
                f"with max_image_tokens {most}, or build it again with --max-image-tokens {tokens}"
            )
