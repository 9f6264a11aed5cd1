"""A model that sees is verified on answers about images, and what goes wrong with images makes the gate fail."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from vision_cases import reference_vision_logits, vision_original, write_vision_shape

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.cli import main
from inference_pio.errors import BadInputError
from inference_pio.runtime.vision import grid, prompt
from inference_pio.runtime.vision.features import ChunkImages
from inference_pio.tiny import tiny_checkpoint
from inference_pio.verify import VerifyOptions, estimate, verify
from inference_pio.verify.examples import read_examples
from inference_pio.verify.reference.questions import Question, read_questions
from inference_pio.verify.reference.vision import write_answers
from inference_pio.verify.scratch import LogitsFile
from inference_pio.verify.weights import CheckpointWeights

ANSWERS = ["a red circle left of a square", "two shapes, one of them is small", "nothing but noise", "it flickers"]


def line(images: list[str], prompt: str, answer: str, **more: object) -> dict[str, object]:
    return {"images": images, "prompt": prompt, "answer": answer, **more}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four questions: one image, two of different sizes, none, and a video."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, size in (
        ("a.png", (70, 100, 3)),
        ("b.png", (150, 60, 3)),
        ("c.jpg", (90, 90, 3)),
        ("d.png", (70, 100, 3)),
    ):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / name)
    lines = [
        line(["a.png"], "What is it?", ANSWERS[0]),
        line(["b.png", "c.jpg"], "And these?", ANSWERS[1]),
        line([], "And now?", ANSWERS[2]),
        line([], "What happens?", ANSWERS[3], videos=[{"frames": ["a.png", "d.png", "a.png"], "fps": 2}]),
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder / "data.jsonl"


def test_fp32_is_the_original(vision_artifact, vision_checkpoint, data):
    report = verify(vision_artifact("fp32"), vision_checkpoint, VerifyOptions(data=data))
    assert report.passed, report.gate.failures
    values = report.to_dict()
    assert values["kl_mean"] < 1e-9 and values["max_logit_difference"] < 1e-4
    assert values["positions"] > sum(len(answer) // 4 for answer in ANSWERS)
    assert values["tokenizer"]["matches"] and values["source_matches"]
    assert report.simulation is None and not any("was skipped" in note for note in report.notes)


def whole_model(checkpoint: Path, question: Question) -> np.ndarray:
    """The logits that predict the answer, from transformers' model held whole: float32 [answer, V]."""
    model = vision_original(checkpoint)
    inputs = {"input_ids": torch.tensor([question.ids]), "mm_token_type_ids": torch.tensor([question.kinds])}
    for names, found in (
        (("pixel_values", "image_grid_thw"), question.images),
        (("pixel_values_videos", "video_grid_thw"), question.videos),
    ):
        inputs |= {} if found is None else dict(zip(names, found, strict=True))
    return reference_vision_logits(model, inputs)[-question.answer - 1 : -1]


@pytest.mark.parametrize("shape", ["plain", "untied_bias", "other_sizes"])
def test_the_streamed_original_is_the_one_held_whole(shape, tmp_path, data):
    checkpoint = write_vision_shape(shape, tmp_path / "checkpoint")
    questions = read_questions(checkpoint, read_examples(data).examples)
    assert [q.images is None for q in questions] == [False, False, True, True]
    assert [q.videos is None for q in questions] == [True, True, True, False]
    with Checkpoint.open(checkpoint) as source, LogitsFile(tmp_path, sum(q.answer for q in questions), 2056) as sink:
        write_answers(checkpoint, CheckpointWeights(source), questions, sink, threads=1)
        place = 0
        for question in questions:
            found = sink.read(place, place + question.answer)
            assert np.abs(found - whole_model(checkpoint, question)).max() < 5e-5
            place += question.answer


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_the_excess_gate_is_judged(vision_artifact, vision_checkpoint, data, precision):
    report = verify(vision_artifact(precision), vision_checkpoint, VerifyOptions(data=data, gate="w8a8"))
    checks = {check.metric: check for check in report.gate.checks}
    assert checks["kl_mean against simulation"].passed, report.gate.failures
    agreement = "kl_mean to simulation" if precision == "int8" else "max_logit_difference to simulation"
    assert checks[agreement].passed, report.gate.failures
    assert report.excess is not None and (report.excess.twin_kl_mean is not None) == (precision == "int8")
    assert report.excess.agreement_kl_mean < 0.3 * report.metrics.kl_mean


def test_a_fault_of_the_tower_exceeds_the_simulation(vision_artifact, vision_checkpoint, data, monkeypatch):
    """Small enough for any absolute bound of a rounded artifact, and no rounding of its weights."""
    whole = prompt.PromptImages.chunk

    def chunk(self: prompt.PromptImages, start: int, stop: int) -> ChunkImages | None:
        found = whole(self, start, stop)
        if found is not None:
            found.layers[0] *= 1.2
        return found

    monkeypatch.setattr(prompt.PromptImages, "chunk", chunk)
    report = verify(vision_artifact("int8"), vision_checkpoint, VerifyOptions(data=data, gate="int4"))
    failed = {check.metric for check in report.gate.checks if not check.passed}
    assert "kl_mean against simulation" in failed


def no_deepstack(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prompt.PromptImages.chunk

    def chunk(self: prompt.PromptImages, start: int, stop: int) -> ChunkImages | None:
        found = whole(self, start, stop)
        if found is not None:
            found.layers[1:] = 0
        return found

    monkeypatch.setattr(prompt.PromptImages, "chunk", chunk)


def swapped_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second image's features in the first one's places, as far as they reach, and the other way round."""
    whole = prompt.PromptImages.chunk

    def chunk(self: prompt.PromptImages, start: int, stop: int) -> ChunkImages | None:
        found = whole(self, start, stop)
        if found is not None and len(self.frames) > 1:
            found.layers[:] = found.layers[:, :, ::-1]
            found.layers[:, ~found.mask] = 0
        return found

    monkeypatch.setattr(prompt.PromptImages, "chunk", chunk)


def exchanged_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    def positions(length: int, spans: list[grid.Span], merge: int) -> tuple[np.ndarray, int]:
        found, ahead = grid.token_positions(length, spans, merge)
        return found[[0, 2, 1]], ahead

    monkeypatch.setattr(prompt, "token_positions", positions)


def text_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt, "token_positions", lambda length, spans, merge: (np.tile(np.arange(length), (3, 1)), 0))


@pytest.mark.parametrize("fault", [no_deepstack, swapped_images, exchanged_axes, text_positions])
def test_faults_with_images_fail_the_gate(vision_artifact, vision_checkpoint, data, monkeypatch, fault):
    fault(monkeypatch)
    report = verify(vision_artifact("fp32"), vision_checkpoint, VerifyOptions(data=data))
    assert not report.passed and report.gate.failures


def test_a_rounded_artifact_is_measured(vision_artifact, vision_checkpoint, data):
    values = verify(vision_artifact("int8"), vision_checkpoint, VerifyOptions(data=data)).to_dict()
    assert 1e-6 < values["kl_mean"] < 0.1


def test_a_cut_model(vision_checkpoint, tmp_path, data):
    from inference_pio.export.options import ExportOptions
    from inference_pio.export.pipeline import export

    export(vision_checkpoint, tmp_path / "cut", ExportOptions(precision="fp32", layers=2))
    report = verify(tmp_path / "cut", vision_checkpoint, VerifyOptions(data=data))
    assert report.passed, report.gate.failures


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"text": Path("x.txt")}, "--text is for models of text"),
        ({"reference": Path("x.npz")}, "--reference is for"),
        ({"save_reference": Path("x.npz")}, "--save-reference is for"),
    ],
)
def test_what_is_for_texts_is_refused(vision_artifact, vision_checkpoint, data, options, word):
    with pytest.raises(BadInputError, match=word):
        verify(vision_artifact("fp32"), vision_checkpoint, VerifyOptions(data=data, **options))


def test_a_text_model_takes_no_images(tiny, tiny_artifact, data):
    with pytest.raises(BadInputError, match="leave it out"):
        verify(tiny_artifact("int8"), tiny, VerifyOptions(data=data))


def test_without_a_checkpoint(vision_artifact, data):
    with pytest.raises(BadInputError, match="give a checkpoint"):
        verify(vision_artifact("fp32"), None, VerifyOptions(data=data))


def test_another_model(vision_artifact, tiny, data):
    with pytest.raises(BadInputError, match="not an export of this checkpoint"):
        verify(vision_artifact("fp32"), tiny, VerifyOptions(data=data))
    with pytest.raises(BadInputError, match="has no vision tower"):
        estimate(vision_artifact("fp32"), tiny, VerifyOptions(data=data))


def test_costs(vision_artifact, vision_checkpoint, data):
    found = estimate(vision_artifact("fp32"), vision_checkpoint, VerifyOptions(data=data))
    assert found.positions == sum(map(len, ANSWERS))
    assert found.scratch_bytes == 2 * found.positions * 2056 * 4
    rounded = estimate(vision_artifact("int8"), vision_checkpoint, VerifyOptions(data=data))
    assert rounded.scratch_bytes == 2 * found.scratch_bytes  # the simulation and its twin


def test_command_line(capsys, vision_artifact, vision_checkpoint, data, tmp_path):
    arguments = ["--against", vision_checkpoint, "--data", data, "--html", tmp_path / "report.html", "--json", "-"]
    assert main.run(["verify", *map(str, [vision_artifact("fp32"), *arguments])]) == 0
    assert json.loads(capsys.readouterr().out)["gate"]["passed"]
    assert (tmp_path / "report.html").stat().st_size > 1000
    arguments = ["export", str(vision_checkpoint), "-o", str(tmp_path / "out"), "--precision", "fp32", "--verify"]
    assert main.run([*arguments, "--data", str(data)]) == 0
    assert "passed" in capsys.readouterr().out
    assert main.run([*arguments[:-1], "--force", "--data", str(data)]) == 2
    other = [*arguments[:3], str(tmp_path / "other"), *arguments[4:]]
    capsys.readouterr()
    assert main.run([*other, "--data", str(tmp_path / "absent.jsonl")]) == 2
    printed = capsys.readouterr().err
    assert "absent.jsonl cannot be read" in printed and "peak memory" not in printed


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "holds no examples"),
        ("[]", "line 1 of"),
        ("{", "not valid JSON"),
        ('{"images": [], "prompt": "x"}', "images, prompt and answer"),
        ('{"images": "a.png", "prompt": "x", "answer": "y"}', "list of files"),
        ('{"images": [5], "prompt": "x", "answer": "y"}', "list of files"),
        ('{"images": [], "prompt": 5, "answer": "y"}', "must be texts"),
        ('{"images": [], "prompt": "x", "answer": ""}', "not empty"),
        ('{"images": ["no.png"], "prompt": "x", "answer": "y"}', "does not exist"),
        ('{"images": [], "prompt": "x", "answer": "y", "more": 1}', "images, prompt and answer"),
        ('{"images": [], "prompt": "x", "answer": "y", "videos": 1}', "videos must be a list"),
        ('{"images": [], "prompt": "x", "answer": "y", "videos": [{"frames": []}]}', "a video must be"),
        ('{"images": [], "prompt": "x", "answer": "y", "videos": [{"frames": ["no"], "fps": 1}]}', "does not exist"),
    ],
)
def test_files_that_are_refused(tmp_path, content, word):
    (tmp_path / "data.jsonl").write_text(content)
    with pytest.raises(BadInputError, match=word):
        read_examples(tmp_path / "data.jsonl")


def test_the_bundled_drawings():
    found = read_examples(None)
    assert len(found.examples) == 120 and found.name == "bundled drawings"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_trained_checkpoint_passes_its_gate(tmp_path, precision):
    from inference_pio.export.options import ExportOptions
    from inference_pio.export.pipeline import export

    checkpoint = tiny_checkpoint("qwen3_vl")
    export(checkpoint, tmp_path / "out", ExportOptions(precision=precision))
    report = verify(tmp_path / "out", checkpoint, VerifyOptions())
    assert report.passed, report.gate.failures


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadInputError, match="cannot be read"):
        read_examples(tmp_path / "data.jsonl")


def test_the_images_count_for_the_digest(data, tmp_path):
    copy = tmp_path / "data.jsonl"
    copy.write_bytes(data.read_bytes())
    for name in ("a.png", "b.png", "c.jpg", "d.png"):
        (tmp_path / name).write_bytes((data.parent / name).read_bytes())
    assert read_examples(copy).sha256 == read_examples(data).sha256
    (tmp_path / "a.png").write_bytes(b"other")
    assert read_examples(copy).sha256 != read_examples(data).sha256
