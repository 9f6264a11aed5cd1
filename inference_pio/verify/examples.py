"""Questions about images with their answers, on which a model with a vision tower is compared."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_pio.artifact.printable import printable
from inference_pio.errors import BadInputError

BUNDLED = Path(__file__).parent / "images" / "samples.jsonl"
"""The default: drawings that no training and no calibration has seen."""
MAX_BYTES = 32 << 20
EXAMPLE = '{"images": ["cat.png"], "prompt": "What is it?", "answer": "A cat."}'


@dataclass(frozen=True)
class Example:
    """A prompt behind its images, and the answer whose tokens are judged."""

    images: tuple[Path, ...]
    prompt: str
    answer: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The question as a conversation."""
        parts: list[dict[str, Any]] = [{"type": "image", "image": str(image)} for image in self.images]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": self.prompt}]}]


@dataclass(frozen=True)
class Examples:
    """All examples of a file; `sha256` is of its bytes and of the images that it names."""

    name: str
    sha256: str
    examples: tuple[Example, ...]


def read_examples(file: Path | None) -> Examples:
    """The examples in a JSONL file, an object such as `EXAMPLE` per line, images relative to it; None: the bundled.

    Raises BadInputError that names the line for anything else, and for images that are not there.
    """
    name = "bundled drawings" if file is None else file.name
    file = BUNDLED if file is None else file
    try:
        if file.stat().st_size > MAX_BYTES:
            raise BadInputError(f"{file} is larger than {MAX_BYTES >> 20} MiB: give a part of it")
        content = file.read_bytes()
        lines = content.decode("utf-8").splitlines()
    except OSError as error:
        raise BadInputError(f"{file} cannot be read ({error.strerror}): give a JSONL file") from None
    except UnicodeDecodeError as error:
        raise BadInputError(f"{file} is not UTF-8 (byte {error.start}): convert it first") from None
    examples = tuple(
        _example(line, f"line {number} of {file.name}", file.parent)
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    if not examples:
        raise BadInputError(f"{file} holds no examples: write lines such as {EXAMPLE}")
    digest = hashlib.sha256(content)
    for path in dict.fromkeys(image for example in examples for image in example.images):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return Examples(name, digest.hexdigest(), examples)


def _example(line: str, where: str, folder: Path) -> Example:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise BadInputError(f"{where} is not valid JSON: write lines such as {EXAMPLE}") from None
    if not isinstance(values, dict) or set(values) != {"images", "prompt", "answer"}:
        raise BadInputError(f"{where} must be an object with images, prompt and answer, such as {EXAMPLE}")
    images, prompt, answer = values["images"], values["prompt"], values["answer"]
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise BadInputError(f"{where}: images must be a list of files")
    if not isinstance(prompt, str) or not isinstance(answer, str) or not answer:
        raise BadInputError(f"{where}: prompt and answer must be texts, and the answer not empty")
    paths = tuple(folder / image for image in images)
    for path in paths:
        if not path.is_file():
            raise BadInputError(f"{where}: image {printable(str(path))} does not exist")
    return Example(paths, prompt, answer)
