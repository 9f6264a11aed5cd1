"""Where weights come from: a checkpoint whose every tensor is accounted for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.checkpoint.ledger import Ledger, check_shape
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import whole_of
from inference_pio.graphs.weights import RowReader, Rows


class WeightSource:
    """Hands out checkpoint tensors as lazy rows and keeps the ledger of their use."""

    def __init__(self, checkpoint: Checkpoint, read_rows: RowReader | None = None) -> None:
        """`read_rows` gives other values than the checkpoint's where a calibration changed them."""
        self._checkpoint = checkpoint
        self._read_rows = read_rows or checkpoint.rows
        self._ledger = Ledger(checkpoint.tensors)

    def rows(self, name: str, shape: tuple[int, ...]) -> Rows:
        """The tensor `name`, which must be there, be used for the first time and have `shape`."""
        self._ledger.use(name)
        if name in self._checkpoint.tensors:
            check_shape(self._checkpoint.tensors[name], shape)
        return Rows(((name, shape[0]),), shape[1:], self._read_rows)

    def matrix(self, name: str, shape: tuple[int, ...]) -> Rows:
        """As `rows`, each row of a tensor of more axes as one flat row."""
        rows = self.rows(name, shape)
        return Rows(
            rows.parts,
            (math.prod(rows.tail),),
            lambda part, start, stop: self._read_rows(part, start, stop).reshape(stop - start, -1),
        )

    def heads(self, name: str, heads: int, parts: Mapping[str, int], columns: int) -> dict[str, Rows]:
        """The tensor `name` [heads * sum of `parts`, columns], whose rows are grouped by head, taken apart.

        Each of `parts` (its name and its rows per head) becomes [heads, rows, columns], called `name[part]`.
        """
        per_head = sum(parts.values())
        whole = self.rows(name, (heads * per_head, columns))
        found, first = {}, 0
        for part, rows in parts.items():
            read = partial(_read_heads, whole, per_head, first, rows)
            found[part] = Rows(((f"{name}[{part}]", heads),), (rows, columns), read)
            first += rows
        return found

    def declare_unused(self, pattern: str, reason: str) -> None:
        """State that tensors matching `pattern` (shell style) are left out on purpose."""
        self._ledger.declare_unused(pattern, reason)

    def declare_copy(self, name: str, original: str) -> None:
        """State that `name`, where present, only repeats `original`; refused when the two differ."""
        info = self._checkpoint.tensors.get(name)
        if info is None or original not in self._checkpoint.tensors:
            return
        check_shape(info, self._checkpoint.tensors[original].shape)
        rows = Rows(((name, info.shape[0]),), info.shape[1:], self._checkpoint.rows)
        for start, stop in rows.spans():
            if not np.array_equal(rows.read(start, stop), self._checkpoint.rows(original, start, stop)):
                raise BadInputError(
                    f"config.json ties '{name}' to '{original}', but the checkpoint stores different values for "
                    "them: set tie_word_embeddings to false if they are meant to differ"
                )
        self._ledger.declare_unused(name, f"a copy of {original}")

    def close(self) -> None:
        """Raise BadInputError unless every tensor was used once or declared unused."""
        self._ledger.close()


def tensor_of(rows: Rows) -> str:
    """The checkpoint tensor behind `rows`, also when they are a part of it."""
    return whole_of(rows.parts[0][0])


def _read_heads(whole: Rows, per_head: int, first: int, rows: int, _: str, start: int, stop: int) -> np.ndarray:
    """Rows `first` to `first + rows` of the heads `start` to `stop`: float32 [stop - start, rows, columns]."""
    values = whole.read(start * per_head, stop * per_head)
    return values.reshape(stop - start, per_head, -1)[:, first : first + rows]


class ShapeSource(WeightSource):
    """Stands in for a checkpoint whose weights are not there: notes names and shapes, and gives out no rows."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._read_rows = _no_rows

    def rows(self, name: str, shape: tuple[int, ...]) -> Rows:
        """Any tensor, of the shape that is wanted."""
        self.shapes[name] = shape
        return Rows(((name, shape[0]),), shape[1:], _no_rows)

    def declare_unused(self, pattern: str, reason: str) -> None:
        """Nothing is there that could be left out."""

    def declare_copy(self, name: str, original: str) -> None:
        """Nothing is there that could differ."""

    def close(self) -> None:
        """Whatever was asked for is taken to be there."""


def _no_rows(name: str, start: int, stop: int) -> np.ndarray:
    raise AssertionError(f"the rows of '{name}' were read, of which only the shape is known")
