"""Experts in one tensor look like experts one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from inference_pio.checkpoint.fused_experts import split_experts
from inference_pio.checkpoint.safetensors import TensorReader
from inference_pio.checkpoint.safetensors_header import TensorInfo, read_header
from inference_pio.errors import BadInputError

GATE_UP, DOWN = "model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"


def info(name: str, *shape: int) -> TensorInfo:
    return TensorInfo(name, "F32", shape, Path("model.safetensors"), 64, 4 * int(np.prod(shape)))


def test_parts_hold_the_right_rows(tmp_path):
    rng = np.random.default_rng(0)
    gate_up, down = rng.normal(size=(3, 8, 5)).astype(np.float32), rng.normal(size=(3, 5, 4)).astype(np.float32)
    other = rng.normal(size=(2, 2)).astype(np.float32)
    save_file({GATE_UP: gate_up, DOWN: down, "other": other}, tmp_path / "model.safetensors")
    tensors = split_experts(read_header(tmp_path / "model.safetensors"))
    assert list(tensors) == sorted(tensors) and len(tensors) == 10
    reader = TensorReader()
    for expert in range(3):
        prefix = f"model.layers.0.mlp.experts.{expert}"
        for kind, expected in (
            ("gate_proj", gate_up[expert, :4]),
            ("up_proj", gate_up[expert, 4:]),
            ("down_proj", down[expert]),
        ):
            np.testing.assert_array_equal(reader.read(tensors[f"{prefix}.{kind}.weight"]), expected)
    np.testing.assert_array_equal(reader.read(tensors["other"]), other)
    reader.close()


def test_other_names_stay():
    tensors = {name: info(name, 4, 6, 2) for name in ("mlp.gate_up_proj", "experts.gate_up_proj.bias")}
    assert split_experts(tensors) == tensors


@pytest.mark.parametrize("shape", [(3, 7, 5), (6, 5), (2, 3, 4, 5)], ids=["odd_rows", "flat", "four_axes"])
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(BadInputError, match="fused experts need"):
        split_experts({GATE_UP: info(GATE_UP, *shape)})


def test_an_expert_in_both_forms_is_refused():
    single = "model.layers.0.mlp.experts.1.down_proj.weight"
    with pytest.raises(BadInputError, match="twice"):
        split_experts({DOWN: info(DOWN, 2, 4, 3), single: info(single, 4, 3)})
