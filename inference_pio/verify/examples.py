"""Questions about images with their answers, on which a model with a vision tower is compared."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from inference_pio.calibration.examples import EXAMPLE, Example, read_example
from inference_pio.errors import BadInputError

BUNDLED = Path(__file__).parent / "images" / "samples.jsonl"
"""The default: drawings that no training and no calibration has seen."""
MAX_BYTES = 32 << 20


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
    for path in dict.fromkeys(file for example in examples for file in example.files):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return Examples(name, digest.hexdigest(), examples)


def _example(line: str, where: str, folder: Path) -> Example:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise BadInputError(f"{where} is not valid JSON: write lines such as {EXAMPLE}") from None
    if not isinstance(values, dict):
        raise BadInputError(f"{where} is no JSON object: write lines such as {EXAMPLE}")
    return read_example(values, where, folder)
