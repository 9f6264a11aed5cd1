"""Checkpoints whose tensors are missing, misshapen or no numbers, given to `inference-pio export`.

Each ends with exit code 2 and one line `error: ...` that names the culprit, without a traceback, and leaves nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from checkpoint_cases import NORM, TABLE, Q, change_tensors


def test_missing_tensors(checkpoint, refused):
    change_tensors(checkpoint, lambda tensors: [tensors.pop(name) for name in (Q, NORM)])
    message = refused(checkpoint)
    assert f"lacks '{NORM}', '{Q}'" in message


def test_tensors_too_many(checkpoint, refused):
    change_tensors(checkpoint, lambda t: t.update({"model.layers.2.mlp.up_proj.weight": t[Q], "\x1b[2J": t[NORM]}))
    message = refused(checkpoint)
    assert "does not use: '\\x1b[2J', 'model.layers.2.mlp.up_proj.weight'" in message


@pytest.mark.parametrize(
    ("name", "shape"), [(Q, (32, 33)), (Q, (32,)), (Q, (32, 32, 1)), (NORM, (31,)), (TABLE, (2047, 32)), (Q, (0, 32))]
)
def test_wrong_shapes(checkpoint, refused, name, shape):
    change_tensors(checkpoint, lambda tensors: tensors.update({name: np.ones(shape, np.float32)}))
    message = refused(checkpoint)
    assert f"'{name}'" in message
    assert f"has the shape {list(shape)}, but config.json implies" in message


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float64, np.uint8, np.bool_])
@pytest.mark.parametrize("name", [Q, NORM, TABLE])
def test_wrong_dtypes(checkpoint, refused, name, dtype):
    change_tensors(checkpoint, lambda tensors: tensors.update({name: tensors[name].astype(dtype)}))
    message = refused(checkpoint)
    assert f"'{name}'" in message
    assert "only " in message and "are supported" in message


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(("name", "place"), [(Q, (31, 31)), (NORM, (5,)), (TABLE, (2047, 0))])
def test_numbers_that_are_none(checkpoint, refused, name, place, value, precision):
    def damage(tensors: dict[str, np.ndarray]) -> None:
        tensors[name][place] = value

    change_tensors(checkpoint, damage)
    message = refused(checkpoint, "--precision", precision)
    assert f"tensor '{name}' holds NaN or infinite values in rows" in message


def test_half_precision_that_is_too_small_for_them(checkpoint, refused):
    change_tensors(checkpoint, lambda tensors: tensors[Q].fill(7e4))
    assert Q in refused(checkpoint, "--precision", "fp16")


def test_a_head_that_contradicts_the_tied_table(checkpoint, refused):
    change_tensors(checkpoint, lambda tensors: tensors.update({"lm_head.weight": tensors[TABLE] + 1}))
    assert "set tie_word_embeddings to false" in refused(checkpoint)
