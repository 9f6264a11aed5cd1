"""Reading files, and the command line."""

from __future__ import annotations

import json
import resource

import pytest
from lint_cases import graph

from inference_pio.cli.main import run
from inference_pio.errors import BadInputError
from inference_pio.graphs.lint import find_dialect
from inference_pio.graphs.lint.linter import lint
from inference_pio.graphs.lint.loading import PROTOBUF_LIMIT

GOOD = graph("y = Neg(x)", "float[2] x", "float[2] y")
BAD = graph("y = Trilu(x)", "float[1,1,3,3] x", "float[1,1,3,3] y")


@pytest.fixture
def write(tmp_path):
    def to(model, name="graph.onnx"):
        (tmp_path / name).write_bytes(model.SerializeToString())
        return tmp_path / name

    return to


def test_weights_beyond_two_gigabytes_are_not_loaded(write):
    model = graph("y = MatMul(x, w)", "float[1,65536] x", "float[1,16384] y", "float[1] w = {1}")
    weight = model.graph.initializer[0]
    weight.ClearField("float_data")
    weight.dims[:] = [65536, 16384]
    weight.data_location = 1
    weight.external_data.add(key="location", value="graph.onnx.data")
    path = write(model)
    with path.with_name("graph.onnx.data").open("wb") as file:
        file.truncate(65536 * 16384 * 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert lint(path, find_dialect("trt85")).accepted
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a"])
def test_what_is_no_model_is_refused(content, tmp_path):
    (tmp_path / "graph.onnx").write_bytes(content)
    with pytest.raises(BadInputError, match="is not an ONNX model"):
        lint(tmp_path / "graph.onnx", find_dialect("modern"))


def test_a_file_that_protobuf_cannot_hold_is_refused(tmp_path):
    with (tmp_path / "graph.onnx").open("wb") as file:
        file.truncate(PROTOBUF_LIMIT)
    with pytest.raises(BadInputError, match="external data"):
        lint(tmp_path / "graph.onnx", find_dialect("modern"))


def test_the_command_tells_by_its_exit_code(write, capsys):
    assert run(["inspect", "--lint", "trt85", str(write(GOOD))]) == 0
    assert "accepted by TensorRT 8.5" in capsys.readouterr().out
    assert run(["inspect", "--lint", "trt85", str(write(BAD))]) == 3
    printed = capsys.readouterr().out
    assert "trilu-rank: node y (Trilu) has 4 dimensions" in printed and "TensorRT 8.5, 1 finding, 1 nodes" in printed


def test_json_holds_every_finding(write, capsys):
    assert run(["inspect", "--lint", "trt85", "--json", "-", str(write(BAD))]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["accepted"] is False
    assert found["graphs"][0]["findings"][0]["rule"] == "trilu-rank"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lint", "trt99", "FILE"], "use trt85, modern, ort-1.20.2"),
        (["--lint", "trt85", "nowhere.onnx"], "cannot be read"),
        (["--lint", "trt85", "--check", "FILE"], "one at a time"),
    ],
)
def test_wrong_use_is_one_sentence(arguments, message, write, capsys):
    arguments = [str(write(GOOD)) if argument == "FILE" else argument for argument in arguments]
    assert run(["inspect", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_artifact_is_judged_by_all_its_graphs(tiny_artifact, capsys):
    artifact = tiny_artifact("fp32")
    assert run(["inspect", "--lint", "trt85", "--json", "-", str(artifact)]) == 3
    graphs = json.loads(capsys.readouterr().out)["graphs"]
    assert [graph["file"] for graph in graphs] == [str(artifact / "model.onnx")]
    assert {"opset", "operator"} <= {finding["rule"] for finding in graphs[0]["findings"]}
