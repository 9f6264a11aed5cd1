"""The safetensors header: which tensors a file holds, and where. Trusts nothing in it.

Format (https://github.com/huggingface/safetensors): 8 bytes little-endian header length, the header as a
UTF-8 JSON object {name: {"dtype", "shape", "data_offsets": [begin, end]}}, then the tensors' bytes,
row-major, little-endian, without holes. Offsets count from the end of the header.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_pio.artifact.printable import printable
from inference_pio.artifact.strict_json import parse_json_object
from inference_pio.checkpoint.files import open_regular, read_exactly
from inference_pio.errors import BadInputError

# Ten times the largest published header; parsing a hostile one costs about 30 bytes of memory per byte.
MAX_HEADER_BYTES = 25_000_000
MAX_RANK = 32
# Four bytes an element still fit a signed 64-bit count, which float32 arrays of this shape need.
MAX_ELEMENTS = 2**61 - 1

_BITS = {
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: dtype is the format's own word, `offset` counts from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, by name, in the order of their bytes.

    Every byte behind the header belongs to exactly one tensor, or `BadInputError` is raised with the names of
    the file and the tensor: truncated files, lying lengths, overlaps, holes, sizes that contradict the shape.
    """
    descriptor, size = open_regular(path)
    try:
        raw = _header_bytes(descriptor, size, path.name)
    finally:
        os.close(descriptor)
    header = parse_json_object(raw, f"the header of {printable(path.name)}")
    _check_metadata(header.pop("__metadata__", {}), path.name)
    start = 8 + len(raw)
    tensors = [_tensor(name, entry, path, start) for name, entry in header.items()]
    tensors.sort(key=lambda info: (info.offset, info.nbytes))
    _check_cover(tensors, start, size, path.name)
    return {info.name: info for info in tensors}


def _header_bytes(descriptor: int, size: int, file_name: str) -> bytes:
    file = printable(file_name)
    if size < 8:
        raise BadInputError(f"{file} has {size} bytes, too few for a safetensors file; download it again")
    prefix = bytearray(8)
    read_exactly(descriptor, 0, memoryview(prefix), file_name)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES or length > size - 8:
        raise BadInputError(
            f"{file} claims a header of {length} bytes, but has {size} bytes in all, and at most "
            f"{MAX_HEADER_BYTES} are accepted: it is truncated or not a safetensors file; download it again"
        )
    raw = bytearray(length)
    read_exactly(descriptor, 8, memoryview(raw), file_name)
    if not raw.startswith(b"{"):
        raise BadInputError(f"the header of {file} does not begin with '{{': it is not a safetensors file")
    return bytes(raw)


def _check_metadata(metadata: object, file_name: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadInputError(f"'__metadata__' in {printable(file_name)} must map strings to strings")


def _tensor(name: str, entry: Any, path: Path, start: int) -> TensorInfo:
    tensor = f"tensor {printable(name)} in {printable(path.name)}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise BadInputError(f"{tensor} must have exactly the fields dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    bits = _BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise BadInputError(f"{tensor} has the unknown dtype {printable(dtype)}")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(_is_count(n) for n in shape):
        raise BadInputError(
            f"{tensor} has the shape {printable(shape)}; at most {MAX_RANK} integers from 0 on are accepted"
        )
    # Zero-sized axes do not excuse the others: no array type takes such a shape.
    if math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
        raise BadInputError(f"{tensor} has the impossibly large shape {printable(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(n) for n in offsets):
        raise BadInputError(f"{tensor} has data_offsets {printable(offsets)}, not two integers from 0 on")
    begin, end = offsets
    elements = math.prod(shape)
    if (end - begin) * 8 != elements * bits:
        raise BadInputError(
            f"{tensor} occupies {end - begin} bytes, "
            f"but shape {printable(shape)} of {dtype} needs {elements * bits / 8:.15g}"
        )
    return TensorInfo(name, dtype, tuple(shape), path, start + begin, end - begin)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _check_cover(tensors: list[TensorInfo], start: int, size: int, file_name: str) -> None:
    file = printable(file_name)
    at, previous = start, "the header"
    for info in tensors:
        tensor = f"tensor {printable(info.name)}"
        if info.offset < at:
            raise BadInputError(f"{tensor} in {file} overlaps {previous}")
        if info.offset > at:
            gap = info.offset - at
            raise BadInputError(f"{file} has a hole of {gap} bytes between {previous} and {tensor}")
        at, previous = info.offset + info.nbytes, tensor
        if at > size:
            raise BadInputError(f"{tensor} ends at byte {at}, but {file} has {size} bytes: download it again")
    if at < size:
        raise BadInputError(f"{file} has {size - at} bytes behind {previous} that belong to no tensor")
