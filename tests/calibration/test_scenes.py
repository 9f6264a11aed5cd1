"""Calibration on images: scenes, the vision tower part by part, and what reaches the decoder's layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image
from safetensors.numpy import load_file

from inference_pio.calibration.collect import Collector
from inference_pio.calibration.documents import read_documents
from inference_pio.calibration.examples import pixel_digest
from inference_pio.calibration.layer_graphs import cut
from inference_pio.calibration.layer_runs import Runner
from inference_pio.calibration.observers import ObserverKind
from inference_pio.calibration.options import CalibrationOptions, Switches
from inference_pio.calibration.pipeline import calibrate
from inference_pio.calibration.plan import plan_calibration
from inference_pio.calibration.result import Calibration
from inference_pio.calibration.text import CalibrationText, read_calibration
from inference_pio.calibration.workspace import Workspace
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.graphs.architectures import read_decoder
from inference_pio.graphs.rewrites.rewrite import match_linear
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.weights import stored_rows
from inference_pio.runtime import Engine
from inference_pio.runtime.vision.grid import patch_positions, position_taps

LENGTH, VOCABULARY = 84, 2056
OFF = Switches(False, False, False, False, False)


def example(images: list[str], prompt: str = "What is it?", **more: Any) -> dict[str, Any]:
    return {"images": images, "prompt": prompt, "answer": "a red circle left of a large blue square", **more}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, and questions about images, one of them shown twice, and a video."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, size in (
        ("a.png", (70, 100, 3)),
        ("b.png", (150, 60, 3)),
        ("c.png", (66, 66, 3)),
        ("d.png", (66, 66, 3)),
    ):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / name)
    lines = [
        {"text": "some words to calibrate on, and more of them; " * 18},
        example(["a.png"]),
        example(["b.png", "a.png"], "And these?"),
        example([], "And now?", videos=[{"frames": ["c.png", "d.png", "c.png"], "fps": 2}]),
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "c.png"}]}]},
        example(["c.png", "d.png"]),
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder / "data.jsonl"


def read(source: Path | str, checkpoint: Path, samples: int, length: int) -> CalibrationText:
    with Checkpoint.open(checkpoint) as opened:
        _, spec = read_decoder(opened, (), None)
    return read_calibration(source, checkpoint, samples, length, spec.vocab_size, spec.vision)


def test_scenes_hold_conversations_with_their_images(vision_checkpoint: Path, data: Path):
    text = read(data, vision_checkpoint, 4, LENGTH)
    assert len(text.scenes) >= 2 and len(text.scenes) + len(text.samples) == 4
    assert all(len(sample) == LENGTH for sample in text.samples)
    digests = {pixel_digest(data.parent / f"{name}.png") for name in "abcd"}
    assert set(text.images) == digests and len(digests) == 4
    kinds = [isinstance(sample, np.ndarray) for sample in text.in_turn()]
    assert kinds[:2] == [False, True]
    for scene in text.scenes:
        assert scene.ids.shape == (LENGTH,) and scene.positions.shape == (3, LENGTH)
        assert scene.places and all(0 < place.count <= LENGTH - place.start for place in scene.places)
        shown = np.zeros(LENGTH, bool)
        for place in scene.places:
            shown[place.start : place.start + place.count] = True
        assert np.array_equal(shown, np.isin(scene.ids, (2048, 2049)))
        assert (scene.positions[1] != scene.positions[2]).any()


@pytest.mark.parametrize(("samples", "texts"), [(1, 1), (2, 1), (3, 1), (50, None)])
def test_half_of_the_samples_show_images(vision_checkpoint: Path, data: Path, samples: int, texts: int | None):
    if texts is None:
        with pytest.raises(BadInputError, match=r"found \d+ of \d+ samples"):
            read(data, vision_checkpoint, samples, LENGTH)
        return
    text = read(data, vision_checkpoint, samples, LENGTH)
    assert (len(text.samples), len(text.scenes)) == (samples - samples // 2, samples // 2)


def logits(collector: Collector, work: Workspace, checkpoint: Path, layers: int, count: int) -> np.ndarray:
    """Of all samples, from the hidden states after the last layer: float32 [samples, LENGTH, V]."""
    for index in range(layers):
        collector.calibrate_layer(index, lambda phase, done, total: None)
    hidden = work.hidden(layers, 96)[:].reshape(count, LENGTH, 96)
    tensors = load_file(checkpoint / "model.safetensors")
    normed = hidden / np.sqrt(np.square(hidden).mean(axis=-1, keepdims=True) + 1e-6)
    found: np.ndarray = normed * tensors["model.language_model.norm.weight"]
    return found @ tensors["model.language_model.embed_tokens.weight"].T


def test_layers_see_images_as_the_engine_does(
    vision_checkpoint: Path, vision_artifact: Callable[[str], Path], data: Path, tmp_path: Path
):
    options = CalibrationOptions(text=data, samples=4, length=LENGTH, switches=OFF, threads=1)
    text = read(data, vision_checkpoint, 4, LENGTH)
    with Checkpoint.open(vision_checkpoint) as source, Workspace(tmp_path / "out", {}) as work:
        plan = plan_calibration(source, options)
        pictures = text.pictures
        collector = Collector(plan, source, work, text.in_turn(), pictures, lambda phase, done, total: None)
        found = logits(collector, work, vision_checkpoint, plan.spec.layers, 4)
    stills = [d for d in read_documents(data, vision_checkpoint, sees=True).documents if d.images][:2]
    with Engine.open(vision_artifact("fp32")) as engine:
        ids = [id for d in stills for id in engine.tokenizer.encode(d.text, add_special_tokens=False)]
        shown = engine.logits(ids, images=[image for d in stills for image in d.images])
        read_only = engine.logits(text.samples[0].tolist())
    assert len(shown) >= LENGTH and len(text.scenes[0].places) > 1
    assert np.abs(found[0] - shown[:LENGTH]).max() < 2e-4
    assert np.abs(found[1] - read_only).max() < 2e-4


def test_steps_of_the_tower(vision_checkpoint: Path, data: Path, tmp_path: Path):
    options = CalibrationOptions(
        "w8a8-static", text=data, samples=4, length=LENGTH, observer=ObserverKind.MIN_MAX, switches=OFF, threads=1
    )
    with calibrate(vision_checkpoint, tmp_path / "out", replace(options, layers=1)) as made:
        named = {linear["tensor"] for linear in made.facts["vision"]}
        scales = {name: made.activation_scale(name) for name in named}
    assert all(0 < linear["error"] < 0.02 for linear in made.facts["vision"])
    text = read(data, vision_checkpoint, 4, LENGTH)
    with Checkpoint.open(vision_checkpoint) as source:
        architecture, spec = read_decoder(source, (), None)
        model = architecture.build_vision(spec, WeightSource(source))
        expected = largest_inputs(model, text, spec.vision.merge_size, spec.vision.position_side)
    assert named == expected.keys() and len(named) == 4 * 4 + 2 * 4
    for name, largest in expected.items():
        assert scales[name] == pytest.approx(largest / 127, rel=1e-4), name


def largest_inputs(model: ir.Model, text: CalibrationText, merge: int, side: int) -> dict[str, float]:
    """The largest magnitude that every linear layer of a whole tower reads but the first, over all pictures."""
    inputs = {stored_rows(m.weight).parts[0][0]: m.x for node in model.graph if (m := match_linear(node)) is not None}
    inputs = {name: value for name, value in inputs.items() if "patch_embed" not in name}
    model.graph.outputs.clear()
    for value in dict.fromkeys(inputs.values()):
        value.type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(value)
    for value in model.graph.initializers.values():
        if "recipe" in value.meta:
            rows = stored_rows(value)
            value.const_value = ir.tensor(rows.read(0, rows.count).reshape(value.shape.numpy()), name=value.name)
    import onnxruntime

    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    found = dict.fromkeys(inputs, 0.0)
    for picture in text.pictures:
        indices, weights = position_taps(picture.grid.height, picture.grid.width, merge, side)
        places = patch_positions(picture.grid.height, picture.grid.width, merge)
        feeds = {"position_indices": indices, "position_weights": weights, "patch_positions": places}
        names = [str(value.name) for value in inputs.values()]
        values = session.run(names, {"pixel_values": picture.read().values, **feeds})
        for name, x in zip(inputs, values, strict=True):
            found[name] = max(found[name], float(np.abs(x).max()))
    return found


def test_an_interrupted_run_goes_on_with_the_features_that_are_there(
    vision_checkpoint: Path, data: Path, tmp_path: Path
):
    options = CalibrationOptions(text=data, samples=3, length=LENGTH, switches=OFF, threads=1)

    def stop(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("layers", 4):
            raise KeyboardInterrupt

    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        calibrate(vision_checkpoint, tmp_path / "a", options, progress=stop)
    calibrate(
        vision_checkpoint, tmp_path / "a", options, progress=lambda phase, done, total: told.append(phase)
    ).close()
    calibrate(vision_checkpoint, tmp_path / "b", options).close()
    assert "images" not in told and "resumed" in told
    for file in sorted((tmp_path / "b").rglob("*.*")):
        assert (tmp_path / "a" / file.relative_to(tmp_path / "b")).read_bytes() == file.read_bytes()


def test_text_alone_is_refused_where_steps_are_fixed(vision_checkpoint: Path, tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("some words to calibrate on, and more of them; " * 40)
    options = CalibrationOptions("w8a8-static", text=text, samples=2, length=LENGTH, threads=1)
    with pytest.raises(BadInputError, match="shows no images, whose inputs"):
        calibrate(vision_checkpoint, tmp_path / "out", options)
    with calibrate(vision_checkpoint, tmp_path / "out", replace(options, precision="w8a8", switches=OFF)) as made:
        assert isinstance(made, Calibration) and not made.shows_images


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (example(["no.png"]), "line 1.* does not exist"),
        (example([5]), "line 1.*list of files"),
        ({"images": ["a.png"]}, "line 1.*images, prompt and answer"),
        (example(["broken.png"]), "line 1.* cannot be used: image 0.* not an image"),
        (example([], videos=[{"frames": []}]), "line 1.* a video must be"),
        (example([], videos=[{"frames": ["broken.png"], "fps": 0}]), "line 1.* above 0"),
        (example([], videos="x"), "line 1.* videos must be a list"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "image": 7}]}]}, "line 1.* write a path"),
    ],
)
def test_lines_that_are_refused(vision_checkpoint: Path, tmp_path: Path, line: dict[str, Any], words: str):
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "data.jsonl").write_text(json.dumps(line))
    with pytest.raises(BadInputError, match=words):
        read(tmp_path / "data.jsonl", vision_checkpoint, 1, 8)


def test_a_model_of_text_takes_no_images(tiny: Path, data: Path):
    with pytest.raises(BadInputError, match=r"line 2, shows images, but .* holds a model of text"):
        read(data, tiny, 1, 8)


def test_the_bundled_drawings_are_part_of_the_default(vision_checkpoint: Path):
    text = read("default", vision_checkpoint, 8, 64)
    assert text.is_default and (len(text.scenes), len(text.samples)) == (4, 4)
    plain = read_calibration("default", vision_checkpoint, 8, 64, VOCABULARY)
    assert not plain.scenes and plain.sha256 != text.sha256


def test_a_whole_decoder_is_cut_where_images_come_in(vision_checkpoint: Path):
    with Checkpoint.open(vision_checkpoint) as source:
        architecture, spec = read_decoder(source, (), None)
        ledger = WeightSource(source)
        architecture.build_vision(spec, ledger)
        layers = cut(architecture.build(spec, ledger))
    assert [layer.addend is not None for layer in layers.layers] == [True, True, True, False]
    assert [str(layer.addend.name) for layer in layers.layers[:3]] == [f"deepstack_embeds.{n}" for n in range(3)]
    assert str(layers.table.name) == "model.language_model.embed_tokens.weight"
    runner = Runner(layers, {"": 24}, 1)
    counted, placed = runner.shared_values(5), runner.shared_values(5, np.tile(np.arange(5), (3, 1)))
    assert all(np.array_equal(counted[name], placed[name]) for name in counted)
