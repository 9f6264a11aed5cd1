"""Drawn samples: the answer is what the image shows, and held-out samples are new."""

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_images import (
    CALIBRATION_FOLDER,
    CALIBRATION_SAMPLES,
    COLOURS,
    HELD_OUT_FOLDER,
    HELD_OUT_SAMPLES,
    PLACES,
    SHAPES,
    SIZES,
    Figure,
    Sample,
    calibration_samples,
    draw,
    held_out_samples,
    is_held_out,
    sample,
    write_samples,
)

from inference_pio.calibration.examples import pixel_digest
from inference_pio.verify.examples import read_examples


def inked(image: Image.Image) -> np.ndarray:
    """Where the ground is covered, bool [H, W]."""
    pixels = np.asarray(image).astype(int)
    return np.abs(pixels - pixels[0, 0]).max(-1) > 0


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_figure_lies_where_it_is_said_to_and_has_its_colour(shape: str, place: str) -> None:
    for colour, rgb in COLOURS.items():
        image = draw(random.Random(f"{colour}{place}"), [Figure(colour, shape, "large", place)])
        rows, columns = np.nonzero(inked(image))
        height, width = inked(image).shape
        x, y = PLACES[place]
        assert abs((columns.min() + columns.max()) / 2 / width - x) < 0.06
        assert abs((rows.min() + rows.max()) / 2 / height - y) < 0.06
        found = np.asarray(image)[rows, columns].mean(0)
        assert np.abs(found - rgb).max() <= 21


def test_sizes_and_shapes_can_be_told_apart() -> None:
    def covered(shape: str, size: str) -> tuple[float, float]:
        """How much of the image is covered, and of the figure's own box."""
        image = draw(random.Random(1), [Figure("red", shape, size, "in the middle")])
        ink = inked(image)
        rows, columns = np.nonzero(ink)
        box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        return ink.sum() / min(image.size) ** 2, ink.sum() / box

    assert set(SIZES) == {"small", "large"}
    for shape in SHAPES:
        assert covered(shape, "large")[0] > 1.8 * covered(shape, "small")[0]
    filled = sorted(covered(shape, "large")[1] for shape in SHAPES)
    assert min(b - a for a, b in itertools.pairwise(filled)) > 0.03


def test_training_never_shows_what_is_held_out() -> None:
    combinations = [(colour, shape, n) for colour in COLOURS for shape in SHAPES for n in range(5)]
    share = sum(is_held_out(*each) for each in combinations) / len(combinations)
    assert 0.1 < share < 0.2
    for colour in COLOURS:  # each word is seen in training nevertheless
        assert not all(is_held_out(colour, shape, n) for shape in SHAPES for n in range(5))
    for number in range(300):
        for held_out in (False, True):
            answer = sample(f"test {number}", held_out).answer.split()
            if len(answer) > 5 and answer[0] == "A" and " and " not in " ".join(answer):
                place = list(PLACES).index(" ".join(answer[4:]).rstrip("."))
                assert is_held_out(answer[2], answer[3], place) == held_out


def test_a_seed_determines_a_sample() -> None:
    first, again, other = sample("1"), sample("1"), sample("2")
    assert first.answer == again.answer and first.images[0].tobytes() == again.images[0].tobytes()
    assert first.images[0].tobytes() != other.images[0].tobytes()
    answers = [sample(str(number)).answer for number in range(400)]
    assert len(set(answers)) > 150
    assert {len(sample(str(number)).images) for number in range(20)} == {1, 2}


@pytest.mark.parametrize(
    ("folder", "samples", "count"),
    [
        (HELD_OUT_FOLDER, held_out_samples, HELD_OUT_SAMPLES),
        (CALIBRATION_FOLDER, calibration_samples, CALIBRATION_SAMPLES),
    ],
    ids=["held out", "calibration"],
)
def test_the_bundled_samples_are_those_that_the_script_makes(
    folder: Path, samples: Callable[[], list[Sample]], count: int, tmp_path: Path
) -> None:
    write_samples(tmp_path, samples())
    bundled = (folder / "samples.jsonl").read_text(encoding="utf-8")
    assert bundled == (tmp_path / "samples.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in bundled.splitlines()]
    assert len(lines) == len(read_examples(folder / "samples.jsonl").examples) == count
    for line, made in zip(lines, samples(), strict=True):
        assert (line["prompt"], line["answer"]) == (made.question, made.answer)
        for name, image in zip(line["images"], made.images, strict=True):
            with Image.open(folder / name) as stored:
                assert stored.mode == "RGB" and stored.tobytes() == image.tobytes()
    files = {path.name for path in (folder / "png").iterdir()}
    assert files == {Path(name).name for line in lines for name in line["images"]}
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 300_000


def test_no_drawing_is_both_calibrated_and_verified_on() -> None:
    digests = [
        {pixel_digest(file) for file in (folder / "png").iterdir()} for folder in (HELD_OUT_FOLDER, CALIBRATION_FOLDER)
    ]
    assert all(len(found) > 100 for found in digests) and not digests[0] & digests[1]
