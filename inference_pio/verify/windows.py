"""The text of a comparison, cut into windows of tokens."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inference_pio.errors import BadInputError

HELD_OUT = Path(__file__).parent / "text" / "heldout.txt"
"""The default text; it was used neither for training the tiny checkpoints nor for calibration."""
MAX_TEXT_BYTES = 32 << 20


@dataclass(frozen=True)
class Text:
    """A text to compare on; `name` is for people, `sha256` is of its UTF-8 bytes."""

    name: str
    content: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Windows:
    """Consecutive windows of one stream of tokens; every position of every window has a token that follows it.

    `stream` int64 [positions + 1]; `window` is the length of all windows but perhaps the last.
    """

    stream: np.ndarray
    window: int
    text_name: str
    text_sha256: str

    @property
    def positions(self) -> int:
        return len(self.stream) - 1

    @property
    def targets(self) -> np.ndarray:
        """int64 [positions]: the token that follows each position."""
        return self.stream[1:]

    @property
    def starts(self) -> list[int]:
        """The position at which each window begins."""
        return list(range(0, self.positions, self.window))

    @property
    def inputs(self) -> list[np.ndarray]:
        """The token ids of each window."""
        return [self.stream[start : min(start + self.window, self.positions)] for start in self.starts]

    def first(self, positions: int) -> Windows:
        """The same windows without what follows the first `positions`, a whole number of windows."""
        return replace(self, stream=self.stream[: positions + 1])

    def describe(self) -> dict[str, Any]:
        """What identifies the windows, as stored in reports and saved references."""
        return {
            "name": self.text_name,
            "sha256": self.text_sha256,
            "tokens_sha256": hashlib.sha256(self.stream.astype("<i8").tobytes()).hexdigest(),
            "window": self.window,
            "windows": len(self.starts),
        }

    @staticmethod
    def from_description(stream: np.ndarray, description: Mapping[str, Any]) -> Windows:
        """The inverse of `describe`; raises ValueError when the stream does not fit."""
        window = description["window"]
        windows = Windows(stream, window, str(description["name"]), str(description["sha256"]))
        if not isinstance(window, int) or window < 1 or len(stream) < 2 or windows.describe() != dict(description):
            raise ValueError("its tokens are not the ones that it was made from")
        return windows


def read_text(path: Path | None) -> Text:
    """The text in a UTF-8 file, or the bundled one; raises BadInputError when it cannot be read."""
    file = HELD_OUT if path is None else path
    try:
        if file.stat().st_size > MAX_TEXT_BYTES:
            raise BadInputError(f"text {file} is larger than {MAX_TEXT_BYTES >> 20} MiB: give a part of it")
        content = file.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"text {file} cannot be read ({error.strerror}): give a UTF-8 text file") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"text {file} is not UTF-8 (byte {error.start}): convert it first") from error
    return Text("bundled held-out text" if path is None else file.name, content)


def cut(text: Text, tokens: list[int], window: int, positions: int) -> Windows:
    """At least `positions` positions in whole windows, or what the text has; nothing is ever repeated.

    A single window is no longer than `positions`. Raises BadInputError for a text without two tokens, of which the
    second could be predicted from the first.
    """
    if len(tokens) < 2:
        raise BadInputError(
            f"text '{text.name}' has {len(tokens)} tokens, a comparison needs at least two: give a longer text"
        )
    window = min(window, positions)
    count = min(math.ceil(positions / window) * window, len(tokens) - 1)
    stream = np.asarray(tokens[: count + 1], dtype=np.int64)
    return Windows(stream, window, text.name, text.sha256)
