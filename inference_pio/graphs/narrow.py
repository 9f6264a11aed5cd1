"""Weights in sixteen bits: what a job makes as float32, rounded on its way to the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.graphs.weights import Job, Piece, Recipe, StoreRows, bytes_of, lazy_initializer, recipe_of


@dataclass(frozen=True)
class Narrowed:
    """A job whose float32 bytes are rounded to `dtype`: its side bytes, and its main bytes where `main` says so."""

    job: Job
    dtype: ir.DataType
    main: bool
    label: str

    def pieces(self) -> Iterator[Callable[[], Piece]]:
        for work in self.job.pieces():
            yield partial(self._piece, work)

    def _piece(self, work: Callable[[], Piece]) -> Piece:
        piece = work()
        data = self._rounded(piece.data) if self.main else piece.data
        return Piece(data, bytes(self._rounded(piece.side, scales=True)) if piece.side else b"")

    def _rounded(self, data: bytes | memoryview, scales: bool = False) -> memoryview:
        values = np.frombuffer(data, np.float32)
        with np.errstate(over="ignore"):
            rounded = values.astype(self.dtype.numpy())
        if scales:  # one of zero is no scale
            lost = (rounded == 0) & (values != 0)
            rounded[lost] = np.nextafter(rounded[lost], np.sign(values[lost]).astype(rounded.dtype))
        if not np.isfinite(rounded.astype(np.float32)).all():
            raise BadInputError(
                f"'{self.label}' has values beyond the range of {self.dtype.name.lower()}: export with --precision "
                "bf16 or fp32"
            )
        return bytes_of(rounded.view(np.uint16))


def narrowed(value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """An initializer of the same weights, floats in it rounded to `dtype`; integers stay, their scales are rounded.

    Data and scales of one job are still made by one job.
    """
    tensor, recipe = value.const_value, recipe_of(value)
    assert tensor is not None
    shape = tuple(int(size) for size in tensor.shape.numpy())
    if recipe is None:
        with np.errstate(over="ignore"):  # what hides a score may become minus infinity
            rounded = ir.tensor(tensor.numpy().astype(dtype.numpy()), dtype=dtype, name=value.name)
        return ir.Value(name=value.name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=rounded)
    source = StoreRows(recipe.job.rows) if isinstance(recipe.job, StoreRows) else recipe.job
    integers = tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    rows = getattr(source, "rows", None)
    label = rows.label if rows is not None else str(value.name)
    job = Narrowed(source, dtype, main=not (integers or recipe.side), label=label)
    made = Recipe(job, recipe.side, recipe.sources, recipe.interleaved)
    return lazy_initializer(str(value.name), tensor.dtype if integers else dtype, shape, made)


def add_narrowed(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """The narrow form of an initializer, which joins the graph's under a name of its own."""
    made = narrowed(value, dtype)
    made.name = f"{value.name}.narrow"
    graph.register_initializer(made)
    return made
