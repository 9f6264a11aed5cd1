"""Rows of an ONNX initializer by plain reads, so that a large model never counts as resident memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from inference_pio.errors import BadInputError


def read_rows(tensor: ir.TensorProtocol, start: int, stop: int, rows: int | None = None) -> np.ndarray:
    """Rows `start` to `stop` along axis 0 of a tensor whose elements fill whole bytes, in its own dtype.

    With `rows` the tensor is seen as a matrix of so many rows, whatever its shape.
    Raises BadInputError when the tensor's file is missing, too short or outside the model's folder.
    """
    shape = tuple(int(size) for size in tensor.shape.numpy())
    if rows is not None:
        shape = (rows, int(np.prod(shape)) // rows)
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.numpy().reshape(shape)[start:stop]
    dtype = np.dtype(tensor.dtype.numpy()).newbyteorder("<")
    row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    found = np.empty((stop - start, *shape[1:]), dtype=dtype)
    path = _confined(Path(tensor.base_dir), str(tensor.location))
    try:
        with path.open("rb", buffering=0) as file:
            file.seek((tensor.offset or 0) + start * row_bytes)
            complete = _read_into(file, found.data.cast("B"))
    except OSError as error:
        raise BadInputError(f"{path} cannot be read ({error.strerror}): export the artifact again") from error
    if not complete:
        raise BadInputError(f"{path} ends inside '{tensor.name}': export the artifact again")
    return found


def _confined(folder: Path, location: str) -> Path:
    path = (folder / location).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BadInputError(f"the model in {folder} refers to '{location}' outside its folder: export it again")
    return path


def _read_into(file: object, view: memoryview) -> bool:
    filled = 0
    while filled < len(view):
        count = file.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            return False
        filled += count
    return True
