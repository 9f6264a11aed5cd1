"""The prepacked form of a graph: the same files, with what ONNX Runtime makes of the weights behind them.

ONNX Runtime copies every quantized weight into a layout of its own when it loads a model, onto the heap, where it can
neither be dropped nor shared. It can also write that layout beside the weight and map it afterwards, but only for a
whole session, all of whose weights are then on the heap once. Here one node after the other is such a session, so that
one weight at a time is in memory. A layout that does not fit (another CPU, another version) is packed anew at load.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference_pio.runtime.mapped.onnx_file import UINT8, Node, OnnxFile

PACKED: dict[str, dict[int, int]] = {
    "MatMulNBits": {},
    "MatMulIntegerToFloat": {0: UINT8},
    "QMoE": {},
    "FusedMatMul": {},
}
"""Operators whose weights are packed, with the types of inputs that are no float."""
ALIGNMENT = 4096
COPY_BYTES = 8 << 20
PART, PART_PACKED, PART_DATA = "part.onnx", "part.packed.onnx", "part.packed.data"

SessionOptionsMaker = Callable[[], Any]
"""Makes the session options under which the graph will run."""
Progress = Callable[[int, int], None]
"""(weights done, in all)"""


def prepack(
    graph: Path, weights: Path, folder: Path, ort: Any, options: SessionOptionsMaker, progress: Progress | None = None
) -> None:
    """Write `graph` and `weights` with their prepacked forms into `folder`, under the same names.

    Memory: one weight, twice. Raises OSError when the disk is full, ValueError for a graph that cannot be read, and
    what ONNX Runtime raises.
    """
    model = OnnxFile.parse(graph.read_bytes())
    external = {tensor.name for tensor in model.tensors if tensor.external}
    nodes = [node for node in model.nodes if node.op_type in PACKED and external & set(node.inputs)]
    data = folder / weights.name
    shutil.copyfile(weights, data)
    added: dict[str, list[tuple[str, str]]] = {}
    for count, node in enumerate(nodes):
        if progress is not None:
            progress(count, len(nodes))
        for name, entries in _pack(model, node, folder, data, ort, options()).items():
            added.setdefault(name, entries)
    (folder / graph.name).write_bytes(model.with_external(added))
    if progress is not None:
        progress(len(nodes), len(nodes))


def _pack(
    model: OnnxFile, node: Node, folder: Path, data: Path, ort: Any, options: Any
) -> dict[str, list[tuple[str, str]]]:
    """Append what the kernel of `node` packs to `data`; the entries to add by initializer."""
    part, packed, packed_data = (folder / name for name in (PART, PART_PACKED, PART_DATA))
    part.write_bytes(model.alone(node, PACKED[node.op_type]))
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", PART_DATA)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "0")
    options.optimized_model_filepath = str(packed)
    try:
        ort.InferenceSession(str(part), options, providers=["CPUExecutionProvider"])
        found = OnnxFile.parse(packed.read_bytes())
        with packed_data.open("rb") as source, data.open("r+b") as target:
            return {
                tensor.name: [
                    (key, _moved(value, source, target))
                    for key, value in tensor.external.items()
                    if key.startswith("prepacked_")
                ]
                for tensor in found.tensors
            }
    finally:
        for leftover in (part, packed, packed_data):
            leftover.unlink(missing_ok=True)


def _moved(value: str, source: Any, target: Any) -> str:
    """`KEY|OFFSET;LENGTH;CHECKSUM|...` with the blobs copied from `source` to the end of `target`."""
    key, *blobs = value.split("|")
    words = [key]
    for blob in blobs:
        offset, length, checksum = blob.split(";")
        start = target.seek(0, os.SEEK_END)
        start = target.seek(start + -start % ALIGNMENT)
        source.seek(int(offset))
        left = int(length)
        while left:
            chunk = source.read(min(left, COPY_BYTES))
            if not chunk:
                raise ValueError("a packed weight is cut off")
            target.write(chunk)
            left -= len(chunk)
        words.append(f"{start};{length};{checksum}")
    return "|".join(words)
