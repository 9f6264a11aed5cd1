"""Reading an ONNX file for a linter: without its external weights, with the types and shapes that follow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from inference_pio.errors import BadInputError

PROTOBUF_LIMIT = 1 << 31
"""Bytes; https://protobuf.dev/programming-guides/proto-limits/"""


@dataclass(frozen=True)
class ExternalFile:
    """Where the bytes of an external tensor lie; `problem` says why they cannot be read, empty when they can."""

    location: str
    problem: str

    @property
    def is_good(self) -> bool:
        return not self.problem


def load(path: Path) -> Any:
    """The ModelProto of a file, with inferred types and shapes where inference gets through.

    Raises BadInputError for what is no ONNX model, and for a file that protobuf cannot hold.
    """
    try:
        if path.exists() and not path.is_file():
            raise BadInputError(f"{path} is no regular file: give a .onnx file or an artifact's folder")
        if path.stat().st_size >= PROTOBUF_LIMIT:
            raise BadInputError(f"{path} has 2 GB or more, which no parser reads: move the weights to external data")
        model = onnx.ModelProto()
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}") from None
    except DecodeError:
        raise BadInputError(f"{path} is not an ONNX model: give a .onnx file or an artifact's folder") from None
    if not model.ir_version or not model.HasField("graph"):
        raise BadInputError(f"{path} is not an ONNX model: it has no graph")
    if not all(map(_is_text, (model.graph, *model.functions))):
        raise BadInputError(f"{path} has names that are not UTF-8: it is damaged, copy or export it again")
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return model  # rules that need a shape then say nothing; the checker of the file itself is onnx.checker


def _is_text(graph: Any) -> bool:
    """Whether all names that a linter may show are text; protobuf hands damaged ones out as bytes.

    `graph` is a graph or a function.
    """
    names = [graph.name]
    for tensor in getattr(graph, "initializer", ()):
        names += [tensor.name, *(text for entry in tensor.external_data for text in (entry.key, entry.value))]
    if isinstance(graph, onnx.FunctionProto):
        names += [*graph.input, *graph.output]
    else:
        names += [value.name for values in (graph.input, graph.output, graph.value_info) for value in values]
    nested = []
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        for attribute in node.attribute:
            names.append(attribute.name)
            nested += [attribute.g] if attribute.HasField("g") else []
            nested += attribute.graphs
    return all(isinstance(name, str) for name in names) and all(map(_is_text, nested))


def external_file(tensor: Any, model_path: Path) -> ExternalFile:
    """Whether an external tensor's bytes are where the file says, below the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    inside = PurePosixPath(location)
    if inside.is_absolute() or ".." in inside.parts or "\\" in location or not inside.parts:
        return ExternalFile(location, "leads out of the model's folder")
    file = model_path.parent / inside
    if not file.is_file():
        return ExternalFile(location, "is missing")
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else file.stat().st_size - offset
    except ValueError:
        return ExternalFile(location, "has an offset or length that is no number")
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        return ExternalFile(location, f"ends before byte {offset + length}")
    return ExternalFile(location, "")
