"""The folder of a calibration while it is made: `.NAME.partial` beside its place, kept when the work is interrupted."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from inference_pio.artifact.files import clear_folder, write_atomically
from inference_pio.artifact.jsonfile import json_bytes
from inference_pio.artifact.locking import FolderBusyError, FolderLock
from inference_pio.calibration.result import FACTS, LAYERS, TOWER_FILE, layer_file
from inference_pio.errors import BadInputError, ResourceLimitError

KEY = "key.json"
TOWER = "vision"


class Workspace:
    """Layers finished so far, and the hidden states that the next one reads.

    `key` is everything that the result depends on: a folder that was begun with another key is begun anew.
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
            raise _refused(self.folder, error) from error
        try:
            if not self._may_go_on():
                self._begin()
        except OSError as error:
            self._lock.release()
            raise _refused(self.folder, error) from error
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

    def hidden(
        self, layer: int | str, samples: int, length: int, size: int, writable: bool = False
    ) -> np.memmap[Any, Any]:
        """The hidden states that layer `layer` reads, float32 [samples, length, size]; read sample by sample."""
        return np.memmap(self._hidden(layer), np.float32, "r+" if writable else "r", shape=(samples, length, size))

    def write_hidden(self, layer: int | str) -> HiddenWriter:
        """Where the hidden states for layer `layer` go; they are there once it is closed."""
        return HiddenWriter(self._hidden(layer))

    def drop_hidden(self, layer: int | str) -> None:
        """Remove hidden states that nobody reads any more."""
        self._hidden(layer).unlink(missing_ok=True)

    def save_layer(self, layer: int, result: tuple[dict[str, np.ndarray], dict[str, Any]]) -> None:
        """Store a layer's arrays and facts; the hidden states that it read are dropped."""
        arrays, facts = result
        self._save(layer_file(layer), arrays)
        write_atomically(self._facts_file(layer), lambda file: file.write(json_bytes(facts)))
        self.drop_hidden(layer)

    def save_tower(self, result: tuple[dict[str, np.ndarray], list[dict[str, Any]]]) -> None:
        """Store the vision tower's arrays and facts; nothing where there are none."""
        arrays, facts = result
        if facts:
            self._save(TOWER_FILE, arrays)
            write_atomically(self._facts_file(TOWER), lambda file: file.write(json_bytes({"linears": facts})))

    def _save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        place = self.folder / LAYERS / name
        temporary = place.with_suffix(".tmp")
        try:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(place)
        except SafetensorError as error:  # the library's own word for a failed write
            raise ResourceLimitError(
                f"{name} could not be written to {self.folder} ({error}): free some space, then run the same command "
                "to go on"
            ) from error
        except OSError as error:
            raise _refused(self.folder, error) from error

    def layer_facts(self, layer: int) -> dict[str, Any]:
        """What `save_layer` stored."""
        facts: dict[str, Any] = json.loads(self._facts_file(layer).read_bytes())
        return facts

    def tower_facts(self) -> list[dict[str, Any]]:
        """What `save_tower` stored."""
        file = self._facts_file(TOWER)
        facts: list[dict[str, Any]] = json.loads(file.read_bytes())["linears"] if file.is_file() else []
        return facts

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
            raise _refused(self.out, error) from error

    def _begin(self) -> None:
        """Clear the folder and say what it is for."""
        clear_folder(self.folder)
        (self.folder / LAYERS).mkdir()
        write_atomically(self.folder / KEY, lambda file: file.write(self._key))

    def _may_go_on(self) -> bool:
        try:
            return (self.folder / KEY).read_bytes() == self._key
        except OSError:
            return False

    def _hidden(self, layer: int | str) -> Path:
        return self.folder / f"hidden.{layer}.bin"

    def _facts_file(self, layer: int | str) -> Path:
        return self.folder / f"layer.{layer}.json"


class HiddenWriter:
    """Hidden states written one sample after the other by plain writes."""

    def __init__(self, place: Path) -> None:
        self._place, self._temporary = place, place.with_suffix(".tmp")
        self._file = self._temporary.open("wb")

    def add(self, hidden_SC: np.ndarray) -> None:
        """One sample, float32 [length, size]; raises ResourceLimitError when the disk is full."""
        try:
            self._file.write(np.ascontiguousarray(hidden_SC, np.float32).data.cast("B"))
        except OSError as error:
            raise _refused(self._place.parent, error) from error

    def close(self) -> None:
        """Put the file in its place; raises as `add` does."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._place)
        except OSError as error:
            raise _refused(self._place.parent, error) from error


def refuse_existing(out: Path, force: bool) -> None:
    """Raise BadInputError when `out` exists and is not to be replaced: only calibrations and empty folders are."""
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise BadInputError(f"{out} exists already: choose another folder or allow it to be replaced (--force)")
    if out.is_symlink() or not out.is_dir():
        raise BadInputError(f"{out} is not a folder, and --force replaces only calibrations: choose another folder")
    if not (out / FACTS).is_file() and any(out.iterdir()):
        raise BadInputError(
            f"{out} is not a calibration, and --force replaces only calibrations: choose another folder"
        )


def _refused(folder: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceLimitError(f"no space left in {folder}: free some, then run the same command to go on")
    return BadInputError(f"{folder} cannot be written ({error.strerror}): choose another place")
