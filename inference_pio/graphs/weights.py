"""Weights as lazy recipes: what an initializer's bytes are made of, evaluated a few rows at a time.

A graph never holds weights. Every initializer that comes from the checkpoint carries a `Recipe` in
`value.meta["recipe"]`; the exporter evaluates one after the other, in row chunks, so that the peak of memory
depends on neither the model nor its largest tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
import onnx_ir as ir

from inference_pio.errors import BadInputError

RowReader = Callable[[str, int, int], np.ndarray]
"""(tensor name, first row, last row + 1) -> float32 rows."""

RowsReader = Callable[[int, int], tuple[np.ndarray, ...]]
"""(first row, last row + 1) -> arrays of these rows."""

CHUNK_ELEMENTS = 1 << 19
"""Elements of one row chunk: 2 MB as float32."""


def in_turn(readers: Sequence[RowsReader], start: int, stop: int) -> tuple[np.ndarray, ...]:
    """Rows `start` to `stop` of sources of the same size that give one row each in turn: a0, b0, a1, b1 ..."""
    count = len(readers)
    low, high = start // count, -(-stop // count)
    parts = [reader(low, high) for reader in readers]
    if count == 1:
        return parts[0]
    wanted = slice(start - low * count, stop - low * count)
    return tuple(
        np.stack(arrays, axis=1).reshape(-1, *arrays[0].shape[1:])[wanted] for arrays in zip(*parts, strict=True)
    )


@dataclass(frozen=True)
class Rows:
    """Checkpoint tensors stacked along axis 0, read as float32 [rows, *tail].

    With `interleaved` n, every n tensors in turn give one row each: a0, b0, a1, b1 ... for n = 2.
    """

    parts: tuple[tuple[str, int], ...]
    tail: tuple[int, ...]
    read_rows: RowReader = field(repr=False, compare=False)
    interleaved: int = 1

    @property
    def count(self) -> int:
        return sum(rows for _, rows in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, *self.tail)

    @property
    def label(self) -> str:
        names = [name for name, _ in self.parts]
        return " + ".join(names if len(names) <= 4 else [*names[:2], f"{len(names) - 2} more"])

    def stack(self, *others: Rows) -> Rows:
        """These rows followed by those of `others`; raises BadInputError when the trailing sizes differ."""
        for other in others:
            if (other.tail, other.interleaved) != (self.tail, self.interleaved):
                raise BadInputError(f"{self.label} and {other.label} cannot be stacked: their rows differ")
        return replace(self, parts=sum((o.parts for o in others), self.parts))

    def interleave(self, other: Rows) -> Rows:
        """Rows of these tensors and of `other`'s in turn; raises BadInputError when their sizes differ."""
        if other.tail != self.tail or [rows for _, rows in other.parts] != [rows for _, rows in self.parts]:
            raise BadInputError(f"{self.label} and {other.label} cannot be interleaved: their sizes differ")
        pairs = zip(self.parts, other.parts, strict=True)
        return Rows(tuple(part for pair in pairs for part in pair), self.tail, self.read_rows, interleaved=2)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` as float32; raises BadInputError that names a tensor with NaN or infinity."""
        pieces = [self._read_group(*group) for group in self._groups(start, stop)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def whole(self) -> np.ndarray:
        """All rows; as `read`."""
        return self.read(0, self.count)

    def between(self, start: int, stop: int) -> str:
        """The names of the tensors that rows `start` to `stop` come from."""
        return " + ".join(name for names, _, _ in self._groups(start, stop) for name in names)

    def _groups(self, start: int, stop: int) -> Iterator[tuple[list[str], int, int]]:
        """Tensors whose rows take turns, and which of their rows `start` to `stop` holds."""
        offset = 0
        for index in range(0, len(self.parts), self.interleaved):
            group = self.parts[index : index + self.interleaved]
            rows = sum(count for _, count in group)
            first, last = max(start - offset, 0), min(stop - offset, rows)
            if first < last:
                yield [name for name, _ in group], first, last
            offset += rows

    def _read_group(self, names: list[str], first: int, last: int) -> np.ndarray:
        (found,) = in_turn([partial(self._read_tensor, name) for name in names], first, last)
        return found

    def _read_tensor(self, name: str, first: int, last: int) -> tuple[np.ndarray]:
        piece = self.read_rows(name, first, last)
        with np.errstate(invalid="ignore"):  # of infinities of both signs
            total = float(np.add.reduce(piece, axis=None, dtype=np.float64))
        if not math.isfinite(total):
            raise BadInputError(
                f"tensor '{name}' holds NaN or infinite values in rows {first} to {last - 1}: "
                "the checkpoint is damaged, fetch or convert it again"
            )
        return (piece,)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Row ranges of about CHUNK_ELEMENTS elements each, in order."""
        step = max(1, CHUNK_ELEMENTS // max(1, math.prod(self.tail)))
        for start in range(0, self.count, step):
            yield start, min(start + step, self.count)


@dataclass(frozen=True)
class Piece:
    """The bytes of one row chunk: what goes to the data file now, and what is kept for a later initializer."""

    data: bytes | memoryview
    side: bytes = b""


def bytes_of(values: np.ndarray) -> memoryview:
    """The bytes of an array, without a copy when it is contiguous."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


class Job(Protocol):
    """One pass over the source that yields the bytes of an initializer, and perhaps of a second one."""

    def pieces(self) -> Iterator[Callable[[], Piece]]:
        """Independent units of work, in file order; each may run in any thread."""


@dataclass(frozen=True)
class StoreRows:
    """Keep the rows as they are, as float32 or rounded to float16."""

    rows: Rows
    dtype: ir.DataType = ir.DataType.FLOAT

    def pieces(self) -> Iterator[Callable[[], Piece]]:
        for start, stop in self.rows.spans():
            yield partial(self._piece, start, stop)

    def _piece(self, start: int, stop: int) -> Piece:
        values = self.rows.read(start, stop)
        if self.dtype == ir.DataType.FLOAT16:
            with np.errstate(over="ignore"):
                rounded = values.astype(np.float16)
            if not np.isfinite(rounded).all():
                raise BadInputError(
                    f"'{self.rows.between(start, stop)}' has values beyond the range of float16: export with "
                    "--precision fp32"
                )
            values = rounded
        return Piece(bytes_of(values))


@dataclass(frozen=True)
class ComputeRows:
    """Rows computed from their index, for example a table of rotary angles; float32 [count, *tail]."""

    count: int
    tail: tuple[int, ...]
    compute: Callable[[int, int], np.ndarray]

    def pieces(self) -> Iterator[Callable[[], Piece]]:
        step = max(1, CHUNK_ELEMENTS // (4 * math.prod(self.tail)))  # the computation may take several copies
        for start in range(0, self.count, step):
            stop = min(start + step, self.count)
            yield partial(self._piece, start, stop)

    def _piece(self, start: int, stop: int) -> Piece:
        return Piece(bytes_of(self.compute(start, stop)))


@dataclass(frozen=True)
class Recipe:
    """What an initializer consists of: a job's main bytes, or the side bytes of the same pass.

    `sources` and `interleaved` say which tensors its rows are, as in `Rows`.
    """

    job: Job
    side: bool = False
    sources: tuple[tuple[str, int], ...] = ()
    interleaved: int = 1

    def evaluate(self) -> bytes:
        """All bytes at once; for small models and tests, the exporter streams instead."""
        pieces = (work() for work in self.job.pieces())
        return b"".join(bytes(p.side if self.side else p.data) for p in pieces)


def lazy_initializer(name: str, dtype: ir.DataType, shape: tuple[int, ...], recipe: Recipe) -> ir.Value:
    """An initializer value that evaluates `recipe` only when somebody asks for its bytes."""

    def evaluate() -> ir.Tensor:
        array = np.frombuffer(recipe.evaluate(), dtype=dtype.numpy()).reshape(shape)
        return ir.Tensor(array, name=name, dtype=dtype)

    tensor = ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(shape), name=name)
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)
    value.meta["recipe"] = recipe
    return value


def recipe_of(value: ir.Value | None) -> Recipe | None:
    """The recipe of an initializer, or None for anything else."""
    return None if value is None else value.meta.get("recipe")


def holds_rows(value: ir.Value | None, rank: int) -> bool:
    """Whether an initializer of `rank` axes holds plain checkpoint rows."""
    recipe = recipe_of(value)
    return recipe is not None and isinstance(recipe.job, StoreRows) and len(recipe.job.rows.shape) == rank


def stored_rows(value: ir.Value) -> Rows:
    """The checkpoint rows behind a float initializer; raises TypeError for any other value."""
    recipe = recipe_of(value)
    if recipe is None or not isinstance(recipe.job, StoreRows):
        raise TypeError(f"{value.name} does not hold plain checkpoint rows")
    return recipe.job.rows
