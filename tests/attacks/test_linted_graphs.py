"""Damaged graphs never give a linter anything but findings or one sentence."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import onnx
import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.lint import DIALECTS, find_dialect
from inference_pio.graphs.lint.linter import lint

sys.path.insert(0, str(Path(__file__).parents[1]))
from lint_cases import QDQ, SCALES, graph

GRAPHS = [
    graph(QDQ, "float[1,2] x", "float[1,3] y", SCALES),
    graph("y = Trilu(x)", "float[3,3] x", "float[3,3] y"),
    graph('y = Einsum<equation = "ij,jk->ik">(x, x)', "float[3,3] x", "float[3,3] y"),
    graph(
        "y = TensorScatter<axis = -2>(c, u, i)",
        "float[1,1,8,4] c, float[1,1,2,4] u",
        "float[1,1,8,4] y",
        "int64 i = {0}",
    ),
    graph(
        "y = If(c) <then_branch = a () => (float[2] t) { t = Relu(x) },"
        " else_branch = b () => (float[2] u) { u = Neg(x) }>",
        "float[2] x, bool c",
        "float[2] y",
    ),
]


def damaged(model: onnx.ModelProto, chance: random.Random) -> bytes:
    """One to three changes: inputs, outputs, operators, attributes and their types, initializers, bytes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(chance.randint(1, 3)):
        node, kind = chance.choice(list(copy.graph.node)), chance.randrange(7)
        if kind == 0:
            del node.input[chance.randrange(len(node.input) + 1) :]
        elif kind == 1:
            del node.output[:]
        elif kind == 2:
            node.op_type = chance.choice(
                ["QuantizeLinear", "DequantizeLinear", "MatMul", "If", "TopK", "Cast", "Where"]
            )
        elif kind == 3 and node.attribute:
            chance.choice(list(node.attribute)).type = chance.randrange(9)
        elif kind == 4 and copy.graph.initializer:
            chance.choice(list(copy.graph.initializer)).dims[:] = [chance.choice([0, -1, 2**40])] * chance.randint(0, 3)
        elif kind == 5 and copy.graph.initializer:
            chance.choice(list(copy.graph.initializer)).data_type = chance.choice([0, 2, 16, 99])
        elif kind == 6:
            data = bytearray(copy.SerializeToString())
            data[chance.randrange(len(data))] = chance.randrange(256)
            return bytes(data)
    return copy.SerializeToString()


@pytest.mark.parametrize("seed", range(5))
def test_damage_is_survived(seed, tmp_path):
    chance = random.Random(seed)
    for _ in range(60):
        (tmp_path / "x.onnx").write_bytes(damaged(chance.choice(GRAPHS), chance))
        for dialect in DIALECTS:
            try:
                json.dumps(lint(tmp_path / "x.onnx", find_dialect(dialect)).to_dict())
            except BadInputError as error:
                assert "x.onnx" in str(error)


def test_a_pipe_and_a_device_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", Path(os.devnull)):
        with pytest.raises(BadInputError, match="is no regular file"):
            lint(path, find_dialect("trt85"))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_circle_ends(dialect, tmp_path):
    model = graph(
        "a = Reshape(x, s) b = Reshape(a, s) y = MatMul(b, b)", "float[2,2] x", "float[2,2] y", "int64[2] s = {2, 2}"
    )
    model.graph.node[0].input[0] = "b"
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    assert lint(tmp_path / "x.onnx", find_dialect(dialect)).nodes == 3


def test_external_data_outside_the_folder_is_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(b"\x01" * 4)
    model = graph("y = QuantizeLinear(x, s, z)", "float[2] x", "int8[2] y", "float s = {1}, int8 z = {0}")
    scale = model.graph.initializer[0]
    scale.ClearField("float_data")
    scale.data_location = onnx.TensorProto.EXTERNAL
    scale.external_data.add(key="location", value="../secret")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x.onnx").write_bytes(model.SerializeToString())
    report = lint(tmp_path / "model" / "x.onnx", find_dialect("trt85"))
    assert [finding.rule for finding in report.findings] == ["external-data"]
    assert "leads out of the model's folder" in report.findings[0].message
