"""A canonical graph cut into layers: one after the other they compute what the whole graph computes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graph_cases import arrays_of, canonical, spec_with
from shapes import SHAPES, write_shape

from inference_pio.calibration.layer_graphs import cut
from inference_pio.calibration.layer_runs import Runner, feed_of
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.graphs.architectures import read_decoder
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.weights import stored_rows

LENGTH = 24
Reader = Callable[[str], np.ndarray]


def whole(model: ir.Model, spec: DecoderSpec, ids: np.ndarray, threads: int = 1) -> list[np.ndarray]:
    """Hidden states after every layer, then logits, of the whole graph."""
    layers = cut(model)
    for number, layer in enumerate(layers.layers):
        layer.output.type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.insert(number, layer.output)
    names = [str(layer.output.name) for layer in layers.layers] + ["logits"]
    session = Runner(layers, model.opset_imports, threads).open(model)
    empty = np.zeros((1, spec.kv_heads, 0, spec.head_dim), np.float32)
    feeds = {
        "input_ids": ids[None],
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids))[None],
        **{f"past_key_values.{n}.{kind}": empty for n in range(spec.layers) for kind in ("key", "value")},
    }
    return session.run(names, feeds)


def one_by_one(model: ir.Model, spec: DecoderSpec, ids: np.ndarray, read: Reader) -> tuple[list[np.ndarray], Runner]:
    """The same from the layers by themselves, the head in numpy."""
    layers = cut(model)
    runner = Runner(layers, model.opset_imports, 1)
    shared = runner.shared_values(len(ids))
    table = stored_rows(layers.table)
    hidden = table.read(0, table.count)[ids][None]
    found = []
    for layer in layers.layers:
        weights = {str(v.name): read(str(v.name)) for v in layer.weights}
        (hidden,) = runner.session(layer, []).run(None, feed_of(layer, hidden, shared, weights))
        found.append(hidden)
    normed = hidden / np.sqrt(np.square(hidden).mean(axis=-1, keepdims=True) + spec.norm_epsilon)
    head = "model.embed_tokens.weight" if spec.tied_embeddings else "lm_head.weight"
    found.append(normed * read("model.norm.weight") @ read(head).T)
    return found, runner


def sessions(runner: Runner) -> int:
    return len(runner._sessions)


@pytest.mark.parametrize("name", [*SHAPES, "half"])
def test_the_layers_one_after_the_other_are_the_whole_graph(name: str, tmp_path: Path):
    if name == "half":
        path = write_shape("plain", tmp_path / "c", torch.float16, "200KB")
        assert len(list(path.glob("*.safetensors"))) > 2
    else:
        path = write_shape(name, tmp_path / "c")
    with Checkpoint.open(path) as checkpoint:
        architecture, spec = read_decoder(checkpoint, (), None)
        ids = np.random.default_rng(0).integers(0, spec.vocab_size, LENGTH)
        expected = whole(architecture.build(spec, WeightSource(checkpoint)), spec, ids)
        model = architecture.build(spec, WeightSource(checkpoint))
        found, runner = one_by_one(model, spec, ids, checkpoint.tensor)
    assert len(found) == spec.layers + 1
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert sessions(runner) == len(set(spec.windows))


def memory(**changes: object) -> tuple[ir.Model, DecoderSpec, dict[str, np.ndarray]]:
    spec = spec_with(**changes)
    return canonical(spec), spec, arrays_of(spec)


@pytest.mark.parametrize(
    ("windows", "kinds"), [((None,) * 4, 1), ((8, 8, 8), 1), ((8, None, 8), 2), ((8, 5, None, 5), 3)]
)
def test_layers_of_one_kind_share_a_session(windows: tuple[int | None, ...], kinds: int):
    model, spec, arrays = memory(windows=windows)
    ids = np.arange(20)
    found, runner = one_by_one(model, spec, ids, arrays.__getitem__)
    assert sessions(runner) == kinds
    assert np.allclose(found[-1], whole(canonical(spec), spec, ids)[-1], rtol=0, atol=1e-4)


def test_what_is_asked_for_comes_after_the_output_in_order():
    model, spec, arrays = memory()
    layers = cut(model)
    runner, layer = Runner(layers, model.opset_imports, 1), layers.layers[1]
    linears = [node for node in layer.nodes if node.op_type == "MatMul"]
    wanted = [linears[-1].inputs[0], linears[0].inputs[0]]
    hidden = np.random.default_rng(0).normal(size=(1, 5, 32)).astype(np.float32)
    weights = {str(v.name): arrays[str(v.name)] for v in layer.weights}
    feed = feed_of(layer, hidden, runner.shared_values(5), weights)
    output, inner, normed = runner.session(layer, wanted).run(None, feed)
    assert (output.shape, inner.shape, normed.shape) == ((1, 5, 32), (1, 5, 48), (1, 5, 32))
    exact = hidden / np.sqrt(np.square(hidden).mean(-1, keepdims=True) + spec.norm_epsilon)
    assert np.allclose(normed, exact * arrays["model.layers.1.input_layernorm.weight"], atol=1e-5)
    assert np.array_equal(output, runner.session(layer, []).run(None, feed)[0])


def test_a_layer_reads_its_own_weights_and_caches():
    layers = cut(memory()[0])
    for index, layer in enumerate(layers.layers):
        assert layer.index == index and len(layer.weights) == 11
        assert all(f".layers.{index}." in str(v.name) for v in layer.weights)
        assert [v.name for v in layer.caches] == [f"past_key_values.{index}.{kind}" for kind in ("key", "value")]
    assert layers.layers[1].hidden is layers.layers[0].output
    assert layers.table.name == "model.embed_tokens.weight"


def test_a_layer_that_others_read_in_two_places_is_refused():
    model, _, _ = memory()
    inner = next(node for node in model.graph if str(node.name).startswith("layers.0/") and node.op_type == "Swish")
    model.graph.append(ir.Node("", "Neg", [inner.outputs[0]], name="elsewhere"))
    with pytest.raises(ValueError, match="layer 0 has 2 results"):
        cut(model)
