"""Images that were prepared before are known by their content, so that the turns of a conversation prepare them once.

Kept is what a prompt needs, the grid and the digest of the patches. The patches themselves are kept until the tower has
read them; when it asks again, because nothing holds their features any more, they are prepared again.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from inference_pio.errors import BadInputError
from inference_pio.runtime.vision.grid import Grid
from inference_pio.runtime.vision.pixels import MAX_BYTES, read_pixels
from inference_pio.runtime.vision.preprocess import Patches, Preprocessor

HELD_BYTES = 64 << 20
"""Of patches that wait for the tower."""
KNOWN = 1024
"""Images and videos that are remembered, the least recently used leaving first."""


class PreparedImages:
    """A preprocessor that remembers. Threads may share it."""

    def __init__(self, preprocessor: Preprocessor) -> None:
        self._preprocessor = preprocessor
        self._known: OrderedDict[bytes, tuple[Grid, bytes]] = OrderedDict()
        self._waiting: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = Lock()
        self.runs = 0
        """How many images and videos were prepared so far."""

    def image(self, image: Any, where: str) -> Patches:
        """As `Preprocessor.image`."""
        return self._patches("image", [image], where, partial(self._preprocessor.image, image, where))

    def video(self, frames: Sequence[Any], where: str) -> Patches:
        """As `Preprocessor.video`."""
        parts = frames if isinstance(frames, (list, tuple)) else []
        return self._patches("video", parts, where, partial(self._preprocessor.video, frames, where))

    def _patches(self, kind: str, parts: Sequence[Any], where: str, prepare: Callable[[], Patches]) -> Patches:
        key = _content(kind, parts)
        with self._lock:
            found = None if key is None else self._known.get(key)
            if key is not None and found is not None:
                self._known.move_to_end(key)
        if key is None or found is None:
            patches = self._run(prepare)
            if key is None or patches.values.nbytes > HELD_BYTES:
                return patches
            self._remember(key, patches)
            found = patches.grid, patches.digest
        return Patches(partial(self._values, key, prepare, found[1], where), *found)

    def _remember(self, key: bytes, patches: Patches) -> None:
        with self._lock:
            self._known[key] = patches.grid, patches.digest
            self._waiting[key] = patches.values
            while len(self._known) > KNOWN:
                self._known.popitem(last=False)
            while sum(values.nbytes for values in self._waiting.values()) > HELD_BYTES:
                self._waiting.popitem(last=False)

    def _values(self, key: bytes, prepare: Callable[[], Patches], digest: bytes, where: str) -> np.ndarray:
        with self._lock:
            held = self._waiting.pop(key, None)
        if held is not None:
            return held
        patches = self._run(prepare)
        if patches.digest != digest:
            raise BadInputError(f"{where} changed while it was read: ask again")
        return patches.values

    def _run(self, prepare: Callable[[], Patches]) -> Patches:
        with self._lock:
            self.runs += 1
        return prepare()


def _content(kind: str, parts: Sequence[Any]) -> bytes | None:
    """A digest of the bytes of files and the pixels of other images; None where something cannot be read."""
    digest = hashlib.sha256(f"{kind} {len(parts)} ".encode())
    for part in parts:
        try:
            if isinstance(part, (str, os.PathLike)):
                if Path(part).stat().st_size > MAX_BYTES:
                    return None
                digest.update(b"file" + hashlib.sha256(Path(part).read_bytes()).digest())
            else:
                pixels = read_pixels(part, kind)
                digest.update(f"pixels {pixels.shape} ".encode() + hashlib.sha256(pixels.tobytes()).digest())
        except (OSError, ValueError, BadInputError):
            return None
    return digest.digest() if parts else None
