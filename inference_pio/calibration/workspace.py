"""The folder of a calibration while it is made: `.NAME.partial` beside its place, kept when the work is interrupted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from inference_pio.artifact.files import clear_folder, refuse_obstacle, write_atomically
from inference_pio.artifact.hashing import hash_file
from inference_pio.artifact.jsonfile import json_bytes
from inference_pio.artifact.locking import FolderBusyError, FolderLock
from inference_pio.calibration.hidden_states import HiddenStates, HiddenWriter, refused
from inference_pio.calibration.result import FACTS, LAYERS, TOWER_FILE, layer_file
from inference_pio.errors import BadInputError, ResourceLimitError

KEY = "key.json"
TOWER = "vision"


class Workspace:
    """Layers finished so far, and the hidden states that the next one reads.

    `key` is everything that the result depends on: a folder that was begun with another key is begun anew, and so is
    one in which the file of a finished layer is damaged.
    """

    def __init__(self, out: Path, key: dict[str, Any]) -> None:
        # "." has no name to put a sibling beside.
        self.out = Path(os.path.abspath(out))  # noqa: PTH100
        self.folder = self.out.with_name(f".{self.out.name}.partial")
        self._key = json_bytes(key)

    def __enter__(self) -> Workspace:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.folder)
        except FolderBusyError:
            raise BadInputError(
                f"another calibration is writing {self.out}: wait for it or choose another folder"
            ) from None
        except OSError as error:
            raise refused(self.folder, error) from error
        try:
            if not self._may_go_on():
                self._begin()
        except OSError as error:
            self._lock.release()
            raise refused(self.folder, error) from error
        return self

    def __exit__(self, *exception: object) -> None:
        """What is there stays, and lets the next run go on."""
        self._lock.release()

    def finished_layers(self) -> int:
        """How many layers need not be computed again; none without the hidden states that the next one reads."""
        count = 0
        while self._facts_file(count).is_file():
            count += 1
        return count if self._hidden(count).is_file() else 0

    def hidden(self, layer: int | str, size: int, writable: bool = False) -> HiddenStates:
        """The hidden states that layer `layer` reads, float32 [tokens of all samples, size]."""
        return HiddenStates(self._hidden(layer), size, writable)

    def write_hidden(self, layer: int | str) -> HiddenWriter:
        """Where the hidden states for layer `layer` go; they are there once it is closed."""
        return HiddenWriter(self._hidden(layer))

    def drop_hidden(self, layer: int | str) -> None:
        """Remove hidden states that nobody reads any more."""
        self._hidden(layer).unlink(missing_ok=True)

    def save_layer(self, layer: int, result: tuple[dict[str, np.ndarray], dict[str, Any]]) -> None:
        """Store a layer's arrays and facts; the hidden states that it read are dropped."""
        arrays, facts = result
        self._save(layer_file(layer), arrays, self._facts_file(layer), facts)
        self.drop_hidden(layer)

    def save_tower(self, result: tuple[dict[str, np.ndarray], list[dict[str, Any]]]) -> None:
        """Store the vision tower's arrays and facts; nothing where there are none."""
        arrays, facts = result
        if facts:
            self._save(TOWER_FILE, arrays, self._facts_file(TOWER), facts)

    def _save(self, name: str, arrays: dict[str, np.ndarray], facts_file: Path, facts: Any) -> None:
        place = self.folder / LAYERS / name
        temporary = place.with_suffix(".tmp")
        try:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            digest = hash_file(temporary).sha256
            temporary.replace(place)
        except SafetensorError as error:  # the library's own word for a failed write
            raise ResourceLimitError(
                f"{name} could not be written to {self.folder} ({error}): free some space, then run the same command "
                "to go on"
            ) from error
        except OSError as error:
            raise refused(self.folder, error) from error
        stored = json_bytes({"file": name, "sha256": digest, "facts": facts})
        write_atomically(facts_file, lambda file: file.write(stored))

    def layer_facts(self, layer: int) -> dict[str, Any]:
        """What `save_layer` stored."""
        facts: dict[str, Any] = json.loads(self._facts_file(layer).read_bytes())["facts"]
        return facts

    def tower_facts(self) -> list[dict[str, Any]]:
        """What `save_tower` stored."""
        file = self._facts_file(TOWER)
        facts: list[dict[str, Any]] = json.loads(file.read_bytes())["facts"] if file.is_file() else []
        return facts

    def hashes(self) -> dict[str, str]:
        """The SHA-256 of every stored file of arrays, by its name."""
        stored = [json.loads(file.read_bytes()) for file in self.folder.glob("layer.*.json")]
        return dict(sorted((entry["file"], entry["sha256"]) for entry in stored))

    def finish(self, facts: dict[str, Any]) -> None:
        """Write `calibration.json` and put the folder in its place."""
        for leftover in (*self.folder.glob("hidden.*"), *self.folder.glob("layer.*.json"), self.folder / KEY):
            leftover.unlink()
        write_atomically(self.folder / FACTS, lambda file: file.write(json_bytes(facts)))
        old = self.out.with_name(f".{self.out.name}.old")
        try:
            shutil.rmtree(old, ignore_errors=True)
            if self.out.exists():
                self.out.rename(old)
            self.folder.rename(self.out)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise refused(self.out, error) from error

    def _begin(self) -> None:
        """Clear the folder and say what it is for."""
        clear_folder(self.folder)
        (self.folder / LAYERS).mkdir()
        write_atomically(self.folder / KEY, lambda file: file.write(self._key))

    def _may_go_on(self) -> bool:
        try:
            if (self.folder / KEY).read_bytes() != self._key:
                return False
            return all(
                hash_file(self.folder / LAYERS / name).sha256 == digest for name, digest in self.hashes().items()
            )
        except (OSError, ValueError, LookupError, TypeError):
            return False

    def _hidden(self, layer: int | str) -> Path:
        return self.folder / f"hidden.{layer}.bin"

    def _facts_file(self, layer: int | str) -> Path:
        return self.folder / f"layer.{layer}.json"


def refuse_existing(out: Path, force: bool) -> None:
    """Raise BadInputError when `out` exists and must not be replaced: only calibrations and empty folders may."""
    refuse_obstacle(out, force, "calibration", lambda folder: (folder / FACTS).is_file())
