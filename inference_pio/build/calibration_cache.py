"""TensorRT's own calibration cache: the text that its int8 calibrators write and read.

A line per tensor: its name, and the bits of its float32 scale (largest magnitude / 127) as eight hexadecimal digits,
most significant first. The first line names the version and the algorithm. Format: the caches of TensorRT's samples, as
in https://zmurder.github.io/TensorRT/Calibration%20file. TensorRT 11 has no calibrators any more.
"""

from __future__ import annotations

import struct
from pathlib import Path

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.files import write_atomically
from inference_pio.errors import BadInputError
from inference_pio.graphs.lint.loading import load
from inference_pio.graphs.lint.quantization import QUANTIZE
from inference_pio.graphs.lint.scope import scopes
from inference_pio.runtime.backends.tensorrt_engines import ROLES

HEADER, DIALECT = "TRT-8503-EntropyCalibration2", "trt85"
"""Of TensorRT 8.5.3."""


def write_calibration_caches(artifact: Artifact, folder: Path) -> list[Path]:
    """Write `NAME.cache` for every graph that becomes an engine; returns the files.

    Raises BadInputError when the artifact is for another version than 8.5 or has no quantized activations, or when the
    folder cannot be written.
    """
    if artifact.manifest.dialect != DIALECT:
        raise BadInputError(
            f"{artifact.path} was exported for {artifact.manifest.target_key}, and calibration caches are read by "
            "TensorRT 8.5: export it with --target tensorrt --hardware sm61"
        )
    texts = {}
    for graph in artifact.manifest.graphs:
        if graph.role in ROLES:
            scales = activation_scales(artifact.file(graph.file))
            if scales:
                texts[f"{Path(graph.file).stem}.cache"] = calibration_cache(scales)
    if not texts:
        raise BadInputError(
            f"{artifact.path} has no quantized activations and so no calibration cache: export it with "
            "--precision w8a8-static"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{folder} cannot be written: {error.strerror}") from None
    for name, text in texts.items():
        write_atomically(folder / name, lambda file, text=text: file.write(text.encode("utf-8")))  # type: ignore[misc]
    return [folder / name for name in texts]


def calibration_cache(scales: dict[str, float]) -> str:
    """The text for scales by tensor name."""
    lines = (f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items())
    return "\n".join((HEADER, *lines)) + "\n"


def activation_scales(file: Path) -> dict[str, float]:
    """The scales of the activations that a graph quantizes, by the tensor's name."""
    scope = next(iter(scopes(load(file), file)))
    scales: dict[str, float] = {}
    for node in scope.nodes:
        if node.op_type == QUANTIZE and not scope.is_constant(node.input[0]):
            values = scope.constant(node.input[1])
            if values is not None and values.size == 1:
                scales[node.input[0]] = float(values.reshape(-1)[0])
    return scales
