"""The token table that a host looks rows up in, read from the byte range that the manifest names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from inference_pio.artifact.manifest import TableFacts
from inference_pio.verify.stored_rows import StoredRows
from inference_pio.verify.tensors import read_rows

DTYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "int8": ir.DataType.INT8}


def read_table(facts: TableFacts, folder: Path) -> StoredRows:
    """The table's rows as float32."""
    shape = (facts.rows, facts.columns)
    values = _tensor(facts.file, facts.offset, DTYPES[facts.dtype], shape, folder)
    scales = None
    if facts.scales_offset is not None:
        scales = _tensor(facts.file, facts.scales_offset, ir.DataType.FLOAT, shape[:1], folder)

    def read(start: int, stop: int) -> np.ndarray:
        rows = read_rows(values, start, stop).astype(np.float32)
        return rows if scales is None else rows * read_rows(scales, start, stop)[:, None]

    return StoredRows(0, shape, read)


def _tensor(file: str, offset: int, dtype: ir.DataType, shape: tuple[int, ...], folder: Path) -> ir.ExternalTensor:
    length = int(np.prod(shape)) * dtype.itemsize
    return ir.ExternalTensor(file, offset, length, dtype, shape=ir.Shape(shape), name="table", base_dir=folder)
