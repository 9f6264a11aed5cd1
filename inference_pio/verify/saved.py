"""Saved references: what the original says about a text, small enough to keep and usable without torch.

Per position: the 256 most likely tokens with their log-probabilities, the probability of all others together, and the
log-probability of the token that follows. Merging the others into one outcome can only lose information, so KL
computed from it is a lower bound of the true KL (data processing inequality; Cover and Thomas, section 2.8).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from inference_pio.artifact.files import write_atomically
from inference_pio.errors import BadInputError
from inference_pio.verify.metrics import PositionTable, ReadLogits, log_softmax, or_infinite
from inference_pio.verify.scratch import spans
from inference_pio.verify.windows import Windows

TOP = 256
SCHEMA_VERSION = 1
_ARRAYS: dict[str, tuple[np.dtype[Any], int]] = {
    "tokens": (np.dtype("<i8"), 1),
    "top_ids": (np.dtype("<i4"), 2),
    "top_log_probs": (np.dtype("<f4"), 2),
    "tail": (np.dtype("<f8"), 1),
    "next_log_probs": (np.dtype("<f8"), 1),
    "meta": (np.dtype("u1"), 1),
}


@dataclass(frozen=True)
class SavedReference:
    """A reference on `windows`; arrays have one row per position, `top_ids` in falling order of probability.

    `facts` are the source's hashes, the vocabulary, the number of parameters and the versions that computed it.
    """

    windows: Windows
    top_ids: np.ndarray
    top_log_probs: np.ndarray
    tail: np.ndarray
    next_log_probs: np.ndarray
    facts: Mapping[str, Any]

    @property
    def vocabulary(self) -> int:
        return int(self.facts["vocabulary"])

    def compare_rows(self, start: int, stop: int, candidate_PV: np.ndarray, targets_P: np.ndarray) -> PositionTable:
        """Compare positions `start` to `stop` with a candidate's float32 logits; KL is a lower bound."""
        row = np.arange(stop - start)
        ids = self.top_ids[start:stop].astype(np.int64)
        logs = self.top_log_probs[start:stop].astype(np.float64)
        # Rounding to float32 leaves the stored values a hair off a distribution; make them one again.
        total = np.log(np.exp(logs).sum(axis=1) + self.tail[start:stop])
        logs -= total[:, None]
        tail = self.tail[start:stop] / np.exp(total)
        candidate_top = candidate_PV.argmax(axis=1)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            q = log_softmax(candidate_PV)
            candidate_nll = or_infinite(-q[row, targets_P])
            q_top = np.take_along_axis(q, ids, axis=1)
            kl = (np.exp(logs) * (logs - q_top)).sum(axis=1)
            np.exp(q, out=q)
            np.put_along_axis(q, ids, 0.0, axis=1)
            q_tail = q.sum(axis=1)
            kl += np.where(tail > 0, tail * (np.log(tail) - np.log(q_tail)), 0.0)
        return PositionTable(
            kl=np.maximum(or_infinite(kl), 0.0),
            reference_top=ids[:, 0],
            candidate_top=candidate_top,
            gap=logs[:, 0] - logs[:, 1] if ids.shape[1] > 1 else np.full(len(row), np.inf),
            in_top5=(ids[:, :5] == candidate_top[:, None]).any(axis=1),
            reference_nll=-self.next_log_probs[start:stop],
            candidate_nll=candidate_nll,
            logit_difference=np.full(len(row), np.nan),
        )

    def save(self, path: Path) -> None:
        """Write an uncompressed `.npz`, completely or not at all."""
        meta = {"schema_version": SCHEMA_VERSION, "text": self.windows.describe(), **self.facts}
        arrays = {
            "tokens": self.windows.stream,
            "top_ids": self.top_ids,
            "top_log_probs": self.top_log_probs,
            "tail": self.tail,
            "next_log_probs": self.next_log_probs,
            "meta": np.frombuffer(json.dumps(meta, sort_keys=True).encode(), dtype=np.uint8),
        }
        typed: dict[str, Any] = {name: array.astype(_ARRAYS[name][0]) for name, array in arrays.items()}

        def write(file: BinaryIO) -> None:
            np.savez(file, **typed)

        write_atomically(path, write)


def collect(reference: ReadLogits, windows: Windows, vocabulary: int, facts: Mapping[str, Any]) -> SavedReference:
    """Reduce the original's logits [positions, vocabulary] to what a saved reference holds."""
    parts = []
    for start, stop in spans(windows.positions, vocabulary):
        logs = log_softmax(reference(start, stop))
        row = np.arange(stop - start)
        count = min(TOP, vocabulary)
        ids = np.argpartition(logs, vocabulary - count, axis=1)[:, -count:]
        order = np.argsort(-np.take_along_axis(logs, ids, axis=1), axis=1, kind="stable")
        ids = np.take_along_axis(ids, order, axis=1)
        top = np.take_along_axis(logs, ids, axis=1)
        following = logs[row, windows.targets[start:stop]]
        np.put_along_axis(logs, ids, -np.inf, axis=1)
        parts.append((ids, top, np.exp(logs).sum(axis=1), following))
    ids, top, tail, following = (np.concatenate(column) for column in zip(*parts, strict=True))
    return SavedReference(
        windows, ids.astype(np.int32), top.astype(np.float32), tail, following, {**facts, "vocabulary": vocabulary}
    )


def load_reference(path: Path) -> SavedReference:
    """Read a saved reference; raises BadInputError unless it is complete and consistent. Never unpickles."""
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _member(archive, name, size) for name in _ARRAYS}
        meta = json.loads(arrays["meta"].tobytes())
        windows = Windows.from_description(arrays["tokens"], meta["text"])
        facts = {key: meta[key] for key in ("vocabulary", "parameters", "layers_kept", "source", "versions")}
        _check(arrays, windows, meta)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInputError(f"{path} is not a usable saved reference ({reason}): save it again") from error
    return SavedReference(
        windows, arrays["top_ids"], arrays["top_log_probs"], arrays["tail"], arrays["next_log_probs"], facts
    )


def _member(archive: zipfile.ZipFile, name: str, size: int) -> np.ndarray:
    """One array, after its header was held against the member's real size, so that a lie costs no memory."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"'{name}' is compressed")
    if info.file_size > size:
        raise ValueError(f"'{name}' is longer than the file")
    dtype, rank = _ARRAYS[name]
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"'{name}' has an unknown format version")
        shape, fortran, found = np.lib.format.read_array_header_1_0(file)
        if found != dtype or len(shape) != rank or fortran:
            raise ValueError(f"'{name}' has another type or rank than it should")
        data = file.read()
    if len(data) != int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise ValueError(f"'{name}' has not the size that its header states")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _check(arrays: Mapping[str, np.ndarray], windows: Windows, meta: Mapping[str, Any]) -> None:
    vocabulary, positions = meta["vocabulary"], windows.positions
    if meta["schema_version"] != SCHEMA_VERSION:
        raise ValueError("its schema version is not known here")
    if not isinstance(vocabulary, int) or not isinstance(meta["parameters"], int) or vocabulary < 1:
        raise ValueError("its sizes are no whole numbers")
    if not isinstance(meta["source"], dict) or not isinstance(meta["versions"], dict):
        raise ValueError("its facts about the source are damaged")
    count = min(TOP, vocabulary)
    for name in ("top_ids", "top_log_probs"):
        if arrays[name].shape != (positions, count):
            raise ValueError(f"'{name}' has not {positions} rows of {count}")
    for name in ("tail", "next_log_probs"):
        if arrays[name].shape != (positions,):
            raise ValueError(f"'{name}' has not {positions} entries")
    for name in ("top_log_probs", "tail", "next_log_probs"):
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"'{name}' holds values that are not finite")
    tail, top = arrays["tail"], arrays["top_log_probs"]
    if (tail < 0).any() or (tail > 1).any() or (top > 1e-3).any() or (np.diff(top, axis=1) > 1e-6).any():
        raise ValueError("its probabilities are impossible")
    for name in ("top_ids", "tokens"):
        if (arrays[name] < 0).any() or (arrays[name] >= vocabulary).any():
            raise ValueError(f"'{name}' holds ids outside the vocabulary")
