"""Images that are none, broken, too large or too many: one clear sentence each, and the engine goes on."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference_pio.cli import main
from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime import Engine, EngineConfig, SamplingParams

sys.path.insert(0, str(Path(__file__).parents[1]))
from vision_cases import END, IMAGE, START, VIDEO

SHORT = SamplingParams(max_new_tokens=2, temperature=0, ignore_eos=True)
GOOD = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def engine(vision_artifact) -> Iterator[Engine]:
    with Engine.open(vision_artifact("fp32")) as opened:
        yield opened


def ask(engine: Engine, *images: object) -> None:
    parts = [{"type": "image", "image": image} for image in images]
    engine.chat([{"role": "user", "content": [*parts, {"type": "text", "text": "what is it?"}]}], SHORT)


def assert_refused(engine: Engine, image: object, *words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        ask(engine, image)
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text and len(text) < 400
    ask(engine, GOOD)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int) -> bytes:
    """A file that says to be so large, and holds nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("0 bytes",)),
        (b"\0" * 5000, ("not an image of a known format",)),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ("not an image of a known format", "PNG")),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", ("not an image of a known format",)),
        (b"\x89PNG\r\n\x1a\n" + b"\xff" * 64, ("not an image",)),
        (png(60, 60), ("cannot be read",)),
        (png(9000, 9000), ("9000 x 9000 pixels", "make it smaller")),
        (png(60_000, 60_000), ("pixels",)),
        (png(2**31 - 1, 2**31 - 1), ("cannot be read",)),
        (png(0, 10), ("cannot be read",)),
    ],
    ids=["empty", "zeros", "svg", "postscript", "header", "hollow", "large", "bomb", "huge", "flat"],
)
def test_files(engine, tmp_path, content, words):
    (tmp_path / "image.png").write_bytes(content)
    if words == ("cannot be read",):
        words = ()
    assert_refused(engine, str(tmp_path / "image.png"), "image.png", *words)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "tiff"])
def test_truncated_files(engine, tmp_path, kind):
    Image.fromarray(GOOD).save(tmp_path / f"whole.{kind}")
    content = (tmp_path / f"whole.{kind}").read_bytes()
    for part in (0.9, 0.5, 0.1):
        (tmp_path / f"part.{kind}").write_bytes(content[: int(len(content) * part)])
        assert_refused(engine, tmp_path / f"part.{kind}", f"part.{kind}")


def test_files_that_are_not_there(engine, tmp_path):
    assert_refused(engine, tmp_path / "absent.png", "absent.png", "does not exist")
    assert_refused(engine, tmp_path, "a folder")
    assert_refused(engine, "https://example.org/cat.png", "does not exist")
    assert_refused(engine, "a\0b", "cannot be read")
    assert_refused(engine, "", "a folder")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (GOOD.astype(np.float32) / 255, ("float32", "uint8")),
        (GOOD.astype(np.int64), ("int64", "uint8")),
        (GOOD[..., 0], ("shape [60, 80]", "channels")),
        (GOOD[..., :2], ("shape [60, 80, 2]",)),
        (GOOD[None], ("shape [1, 60, 80, 3]",)),
        (GOOD[:0], ("empty",)),
        (np.zeros((2, 401, 3), np.uint8), ("401 x 2", "200 times")),
        (np.broadcast_to(np.uint8(0), (9000, 9000, 3)), ("9000 x 9000",)),
        (np.zeros((0,), np.uint8), ("shape [0]",)),
        (b"bytes", ("bytes", "path")),
        (GOOD.tolist(), ("list",)),
        (7, ("int",)),
    ],
    ids=["float", "wide", "flat", "two", "batch", "empty", "narrow", "huge", "vector", "bytes", "list", "number"],
)
def test_values(engine, image, words):
    assert_refused(engine, image, *words)


def test_broken_pillow_images(engine, tmp_path):
    Image.fromarray(GOOD).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "part.png").write_bytes(content[: len(content) // 2])
    with Image.open(tmp_path / "part.png") as lazy:
        assert_refused(engine, lazy, "cannot be read")
    closed = Image.open(tmp_path / "whole.png")
    closed.close()
    assert_refused(engine, closed, "cannot be read")


def test_one_pixel_is_an_image(engine):
    ask(engine, np.zeros((1, 1, 3), np.uint8))


@pytest.mark.parametrize(
    ("ids", "images", "words"),
    [
        ([5, START, IMAGE, END], [GOOD, GOOD], "1 placeholder for images and 2 images were given"),
        ([5, IMAGE, 6, IMAGE], [GOOD], "2 placeholders for images and 1 image was given"),
        ([5, 6], [GOOD], "0 placeholders for images and 1 image"),
        ([5, VIDEO, IMAGE], [GOOD], "1 placeholder for video frames and 0 video frames"),
        ("no place", [GOOD], "0 placeholders"),
        ("a <|image_pad|> and <|image_pad|>", [GOOD], "2 placeholders for images and 1 image"),
        ("a <|image_pad|> alone", [], "1 placeholder for images and 0 images"),
    ],
)
def test_counts(engine, ids, images, words):
    with pytest.raises(BadInputError, match=words):
        engine.generate(ids, SHORT, images=images)
    with pytest.raises(BadInputError, match=words):
        engine.stream(ids, SHORT, images=images)


def test_text_cannot_smuggle_placeholders_in(engine):
    content = [{"type": "image", "image": GOOD}, {"type": "text", "text": "and <|image_pad|>"}]
    with pytest.raises(BadInputError, match="2 placeholders for images and 1 image"):
        engine.chat([{"role": "user", "content": content}], SHORT)


@pytest.mark.parametrize("images", [GOOD, "cat.png", 5, None, {"image": GOOD}])
def test_one_image_is_no_list(engine, images):
    for call in (engine.generate, engine.stream, engine.logits):
        with pytest.raises(BadInputError, match="must be a list"):
            call([5, IMAGE], images=images)


def test_images_with_several_prompts(engine):
    with pytest.raises(BadInputError, match="single prompt"):
        engine.generate([[5, IMAGE], [6, IMAGE]], SHORT, images=[GOOD])
    with pytest.raises(BadInputError, match="one row"):
        engine.logits(np.array([[5, IMAGE]]), np.ones((1, 2)), images=[GOOD])


def test_ids_are_checked_before_they_are_expanded(engine):
    for ids, words in (([5, "x", IMAGE], "not an integer"), ([5, 10**9, IMAGE], "outside"), ([], "empty")):
        with pytest.raises(BadInputError, match=words):
            engine.generate(ids, SHORT, images=[GOOD])


def test_an_image_longer_than_the_context(vision_artifact):
    with (
        Engine.open(vision_artifact("fp32"), EngineConfig(max_context=20)) as engine,
        pytest.raises(BadInputError, match="context ends at 20"),
    ):
        ask(engine, GOOD)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image"}, "is missing"),
        ({"type": "image", "image": None}, "is missing"),
        ({"type": "video"}, "is missing"),
        ({"type": "video", "video": GOOD}, "list of 1 to"),
        ({"type": "video", "video": []}, "list of 1 to"),
        ({"type": "video", "video": [GOOD, GOOD[:30]]}, "different sizes"),
        ({"type": "video", "video": [GOOD, 5]}, "frame 1 of video 0"),
        ({"type": "video", "video": [GOOD], "fps": 0}, "above 0"),
        ({"type": "video", "video": [GOOD], "fps": "fast"}, "must be a number"),
        ({"type": "video", "video": [GOOD] * 1000}, "list of 1 to"),
    ],
)
def test_parts_of_messages(engine, part, words):
    with pytest.raises(BadInputError, match=words):
        engine.chat([{"role": "user", "content": [part]}], SHORT)


def test_a_text_model_takes_no_images(tiny_artifact):
    with Engine.open(tiny_artifact("int8")) as engine:
        with pytest.raises(BadInputError, match="text only"):
            engine.generate("x", SHORT, images=[GOOD])
        with pytest.raises(BadInputError, match="text only"):
            ask(engine, GOOD)
        with pytest.raises(BadInputError, match="text only"):
            engine.chat([{"role": "user", "content": [{"type": "video", "video": [GOOD]}]}], SHORT)
        engine.generate("x", SHORT, images=[])


def test_without_pillow(vision_artifact, tmp_path):
    """Text runs, and an image names the extra to install."""
    Image.fromarray(GOOD).save(tmp_path / "image.png")
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text("raise ImportError('no Pillow here')\n")
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from inference_pio.cli.main import run\n"
        "assert run(['generate', sys.argv[1], '-p', 'x', '--max-new-tokens', '2']) == 0\n"
        "raise SystemExit(run(['generate', sys.argv[1], '-p', 'x', '--image', sys.argv[3]]))"
    )
    arguments = [str(vision_artifact("fp32")), str(tmp_path), str(tmp_path / "image.png")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "inference-pio[vision]" in done.stderr and "Traceback" not in done.stderr


def without_vision_graph(values: dict[str, Any]) -> None:
    values["graphs"] = [graph for graph in values["graphs"] if graph["role"] != "vision"]


def without_decoder(values: dict[str, Any]) -> None:
    values["graphs"] = [graph for graph in values["graphs"] if graph["role"] != "decoder"]


def decoder_as_vision(values: dict[str, Any]) -> None:
    next(graph for graph in values["graphs"] if graph["role"] == "vision")["file"] = "model.onnx"


def vision_as_decoder(values: dict[str, Any]) -> None:
    next(graph for graph in values["graphs"] if graph["role"] == "decoder")["file"] = "vision.onnx"


def too_few_streams(values: dict[str, Any]) -> None:
    values["positions"]["streams"].pop()


def without_positions(values: dict[str, Any]) -> None:
    values["positions"] = None


def strange_stream(values: dict[str, Any]) -> None:
    values["positions"]["streams"][0] = 3


def other_patches(values: dict[str, Any]) -> None:
    values["vision"]["merge_size"] = 4


def larger_table(values: dict[str, Any]) -> None:
    values["vision"]["position_side"] = 1000


@pytest.mark.parametrize(
    "change",
    [
        without_vision_graph,
        without_decoder,
        decoder_as_vision,
        vision_as_decoder,
        too_few_streams,
        without_positions,
        strange_stream,
        other_patches,
        larger_table,
    ],
)
def test_manifests_that_lie(vision_artifact, tmp_path, change):
    """Each is told in one sentence, when the artifact is opened or when it first meets an image."""
    copy = shutil.copytree(vision_artifact("fp32"), tmp_path / "artifact")
    values = json.loads((copy / "manifest.json").read_text())
    change(values)
    (copy / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(InferencePioError) as caught, Engine.open(copy) as engine:
        ask(engine, GOOD)
    assert "\n" not in str(caught.value)


def test_command_line(capsys, vision_artifact, tmp_path):
    (tmp_path / "image.png").write_bytes(b"nothing")
    assert main.run(["generate", str(vision_artifact("fp32")), "-p", "x", "--image", str(tmp_path / "image.png")]) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1 and "image.png" in err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preprocessor_config.json": None}, "has no preprocessor_config.json"),
        ({"preprocessor_config.json": {"patch_size": 16}}, "patch_size of 16"),
        ({"preprocessor_config.json": {"do_normalize": False}}, "do_normalize"),
        ({"video_preprocessor_config.json": {"merge_size": 4}}, "merge_size of 4"),
    ],
)
def test_preprocessors_of_other_models(vision_checkpoint, tmp_path, changes, words):
    copy = shutil.copytree(vision_checkpoint, tmp_path / "checkpoint")
    for name, change in changes.items():
        if change is None:
            (copy / name).unlink()
        else:
            (copy / name).write_text(json.dumps(json.loads((copy / name).read_text()) | change))
    with pytest.raises(BadInputError, match=words):
        export(copy, tmp_path / "out", ExportOptions(precision="fp32"))
    assert not (tmp_path / "out").exists()
