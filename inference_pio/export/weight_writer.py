"""Evaluating weight recipes into one data file: a few row chunks in memory, hashed on the way, each job once."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import onnx_ir as ir

from inference_pio.artifact.writer import HashedFile
from inference_pio.export.side_bytes import SideBytes
from inference_pio.graphs.weights import Job, Piece, Recipe, recipe_of

SOURCES_KEY = "inference_pio.sources"
"""Metadata of an initializer: the checkpoint tensors it was made of, as JSON [[name, rows], ...]."""
INTERLEAVED_KEY = "inference_pio.interleaved"
"""Metadata where every n of those tensors give one row each in turn: n. Otherwise they follow each other."""

LARGE_ALIGNMENT, SMALL_ALIGNMENT, LARGE_BYTES = 4096, 64, 1 << 20

Progress = Callable[[int], None]
"""Called with the number of bytes just written."""


def write_weights(graph: ir.Graph, file: HashedFile, location: str, threads: int, progress: Progress) -> None:
    """Write every lazy initializer of `graph` to `file` and let the graph refer to it as external data.

    Initializers made by the same job share their bytes; the side bytes of a job (scales) follow when they are asked
    for. Peak memory: a few chunks per thread and at most `side_bytes.IN_MEMORY`.
    """
    placed: dict[tuple[Job, bool], tuple[int, int]] = {}
    sides: dict[Job, SideBytes] = {}
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for value in list(graph.initializers.values()):
            recipe = recipe_of(value)
            if recipe is None:
                continue
            key = (recipe.job, recipe.side)
            if key not in placed:
                if recipe.side:
                    placed[key] = _write_side(file, sides.pop(recipe.job), progress)
                else:
                    placed[key], sides[recipe.job] = _write_job(file, value, recipe, pool, threads, progress)
            offset, length = placed[key]
            _refer(value, recipe, location, offset, length)


def data_bytes(graph: ir.Graph) -> int:
    """Bytes that `write_weights` will write, alignment aside."""
    sizes = {}
    for value in graph.initializers.values():
        recipe = recipe_of(value)
        if recipe is not None and value.const_value is not None:
            sizes[recipe.job, recipe.side] = value.const_value.nbytes
    return sum(sizes.values())


def _write_job(
    file: HashedFile,
    value: ir.Value,
    recipe: Recipe,
    pool: ThreadPoolExecutor,
    threads: int,
    progress: Progress,
) -> tuple[tuple[int, int], SideBytes]:
    expected = value.const_value.nbytes if value.const_value is not None else 0
    offset = file.align(LARGE_ALIGNMENT if expected >= LARGE_BYTES else SMALL_ALIGNMENT)
    side = SideBytes(file.path.parent)
    for piece in _in_order(pool, recipe.job.pieces(), ahead=threads + 1):
        file.write(piece.data)
        side.write(piece.side)
        progress(len(piece.data))
    if file.size - offset != expected:
        raise ValueError(f"{value.name}: {file.size - offset} bytes written, {expected} expected")
    return (offset, expected), side


def _write_side(file: HashedFile, side: SideBytes, progress: Progress) -> tuple[int, int]:
    offset = file.align(LARGE_ALIGNMENT if side.size >= LARGE_BYTES else SMALL_ALIGNMENT)
    for chunk in side.chunks():
        file.write(chunk)
        progress(len(chunk))
    return offset, side.size


def _in_order(pool: ThreadPoolExecutor, work: Iterable[Callable[[], Piece]], ahead: int) -> Iterator[Piece]:
    """Results in the order of `work`, at most `ahead` of them computed or waiting."""
    waiting: deque[Future[Piece]] = deque()
    try:
        for unit in work:
            waiting.append(pool.submit(unit))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _refer(value: ir.Value, recipe: Recipe, location: str, offset: int, length: int) -> None:
    tensor = value.const_value
    assert tensor is not None and math.prod(tensor.shape.numpy()) >= 0
    sources = {SOURCES_KEY: json.dumps(recipe.sources)} if recipe.sources else {}
    if recipe.interleaved > 1:
        sources[INTERLEAVED_KEY] = str(recipe.interleaved)
    value.const_value = ir.ExternalTensor(
        location,
        offset,
        length,
        tensor.dtype,
        shape=tensor.shape,
        name=str(value.name),
        metadata_props=sources or None,
    )
