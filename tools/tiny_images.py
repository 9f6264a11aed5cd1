"""Drawn shapes with questions and answers: what the tiny vision model is trained on, and held-out ones.

``python tools/tiny_images.py`` writes the held-out samples that `verify` measures vision models on, and those that they
are calibrated on. Everything is determined by a seed. Samples are held out by what they show: a colour, shape and place
(or number) that training and calibration samples never have together.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

HELD_OUT_FOLDER = Path(__file__).parents[1] / "inference_pio/verify/images"
HELD_OUT_SAMPLES = 120
CALIBRATION_FOLDER = Path(__file__).parents[1] / "inference_pio/calibration/images"
CALIBRATION_SAMPLES = 160
COLOURS = {
    "red": (205, 35, 35),
    "green": (30, 150, 50),
    "blue": (35, 70, 210),
    "yellow": (225, 200, 30),
    "purple": (140, 40, 160),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = {
    "at the top left": (0.25, 0.25),
    "at the top right": (0.75, 0.25),
    "at the bottom left": (0.25, 0.75),
    "at the bottom right": (0.75, 0.75),
    "in the middle": (0.5, 0.5),
}
SIZES = {"small": (0.13, 0.16), "large": (0.22, 0.25)}  # radius, relative to the shorter side
NUMBERS = ("One", "Two", "Three", "Four")
SIDES = (56, 136)  # pixels
JITTER = 0.03


@dataclass(frozen=True)
class Figure:
    """One shape; `place` is a key of PLACES."""

    colour: str
    shape: str
    size: str
    place: str


@dataclass(frozen=True)
class Sample:
    """Images, a question about them, and the answer that only the images tell."""

    images: list[Image.Image]
    question: str
    answer: str

    @property
    def messages(self) -> list[dict[str, object]]:
        """The question as a conversation, images first."""
        parts = [{"type": "image"} for _ in self.images]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": self.question}]}]


def is_held_out(colour: str, shape: str, last: int) -> bool:
    """Whether this colour, shape and place or number stay out of training: every seventh combination."""
    return (list(COLOURS).index(colour) + 2 * SHAPES.index(shape) + 3 * last) % 7 == 3


def figure(rng: random.Random, held_out: bool) -> Figure:
    """A random shape, held out or not as asked."""
    while True:
        colour, shape, size = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(list(SIZES))
        place = rng.randrange(len(PLACES))
        if is_held_out(colour, shape, place) == held_out:
            return Figure(colour, shape, size, list(PLACES)[place])


def draw(rng: random.Random, figures: list[Figure]) -> Image.Image:
    """The figures on a light ground of random size, each a little off its place and colour."""
    width, height = rng.randint(*SIDES), rng.randint(*SIDES)
    image = Image.new("RGB", (width, height), tuple(rng.randint(215, 255) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for each in figures:
        x, y = (
            side * (at + rng.uniform(-JITTER, JITTER))
            for side, at in zip((width, height), PLACES[each.place], strict=True)
        )
        radius = min(width, height) * rng.uniform(*SIZES[each.size])
        fill = tuple(min(255, max(0, value + rng.randint(-20, 20))) for value in COLOURS[each.colour])
        paint(pen, each.shape, x, y, radius, fill)
    return image


def paint(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, fill: tuple[int, ...]) -> None:
    """One shape around (x, y)."""
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill)
    elif shape == "square":
        side = 0.9 * radius
        pen.rectangle((x - side, y - side, x + side, y + side), fill)
    elif shape == "triangle":
        pen.polygon([(x, y - radius), (x - radius, y + 0.8 * radius), (x + radius, y + 0.8 * radius)], fill)
    else:
        bar = 0.35 * radius
        pen.rectangle((x - radius, y - bar, x + radius, y + bar), fill)
        pen.rectangle((x - bar, y - radius, x + bar, y + radius), fill)


def one_shape(rng: random.Random, held_out: bool) -> Sample:
    """A single shape: describe it, or say its colour, kind or place."""
    shown = figure(rng, held_out)
    question, answer = rng.choice(
        [("Describe the image.", f"A {shown.size} {shown.colour} {shown.shape} {shown.place}.")] * 3
        + [
            ("What colour is the shape?", f"It is {shown.colour}."),
            ("Which shape is it?", f"It is a {shown.shape}."),
            ("Where is the shape?", f"It is {shown.place}."),
        ]
    )
    return Sample([draw(rng, [shown])], question, answer)


def several_shapes(rng: random.Random, held_out: bool) -> Sample:
    """One to four equal shapes: count them."""
    while True:
        colour, shape, number = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.randint(1, 4)
        if is_held_out(colour, shape, number) == held_out:
            break
    places = rng.sample(list(PLACES)[:4], number)
    shown = [Figure(colour, shape, "large" if rng.random() < 0.5 else "small", place) for place in places]
    plural = shape if number == 1 else f"{shape}es" if shape == "cross" else f"{shape}s"
    return Sample([draw(rng, shown)], "How many shapes are there?", f"{NUMBERS[number - 1]} {colour} {plural}.")


def two_images(rng: random.Random, held_out: bool) -> Sample:
    """Two images with a shape each: describe both."""
    first, second = figure(rng, held_out), figure(rng, held_out)
    answer = f"A {first.colour} {first.shape} and a {second.colour} {second.shape}."
    return Sample([draw(rng, [first]), draw(rng, [second])], "What do the two images show?", answer)


def sample(seed: str, held_out: bool = False) -> Sample:
    """The sample of this seed: half show one shape, a quarter several, a quarter come as two images."""
    rng = random.Random(seed)
    return rng.choice((one_shape, one_shape, several_shapes, two_images))(rng, held_out)


def held_out_samples() -> list[Sample]:
    """The bundled samples."""
    return [sample(f"held out {number}", held_out=True) for number in range(HELD_OUT_SAMPLES)]


def calibration_samples() -> list[Sample]:
    """The bundled samples that calibration uses: what training knows, in drawings of their own."""
    return [sample(f"calibration {number}") for number in range(CALIBRATION_SAMPLES)]


def write_samples(folder: Path, samples: list[Sample]) -> None:
    """Write `samples.jsonl` and its images into `folder`, in place of those that are there."""
    shutil.rmtree(folder / "png", ignore_errors=True)
    (folder / "png").mkdir(parents=True)
    lines = []
    for number, each in enumerate(samples):
        names = [f"png/{number:03d}{letter}.png" for letter in "ab"[: len(each.images)]]
        for name, image in zip(names, each.images, strict=True):
            image.save(folder / name, optimize=True)
        lines.append(json.dumps({"images": names, "prompt": each.question, "answer": each.answer}))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_samples(HELD_OUT_FOLDER, held_out_samples())
    write_samples(CALIBRATION_FOLDER, calibration_samples())
